"""The reference pages in this folder, made from the code: `python -m decision_seq.reference`.

    configuration.md   every component and key of the configuration
    commands.md        every verb with its help
    recipes.md         every recipe and table of `experiments/`, with its settings

A test holds them equal to the code.
"""
