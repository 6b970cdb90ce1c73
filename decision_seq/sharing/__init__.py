"""Policies exchanged with other programs: exported, imported, described, uploaded.

layouts.py     where others keep the tensors of a Decision Transformer
foreign.py     their files and repositories, read without running anything of theirs
importing.py   a checkpoint of ours, made of one of theirs
exporting.py   a folder for transformers, a file for ONNX, a whole checkpoint
onnx_file.py   any policy's `act` as an ONNX graph
card.py        the model card that goes with it
push.py        to the Hugging Face Hub
"""
