"""Exchange of policies with other programs: export, import, model cards, upload.

layouts.py     tensor names of a Decision Transformer in other programs
foreign.py     reading their files and repositories, without running their code
importing.py   making a checkpoint of ours from one of their models
exporting.py   writing a folder for transformers, an ONNX file, or a checkpoint
onnx_file.py   any policy's `act` as an ONNX graph
card.py        the model card of an exported policy
push.py        uploading to the Hugging Face Hub
"""
