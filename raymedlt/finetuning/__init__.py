"""Vision-language models that write the report of a chest X-ray: fine-tuning, generation, export.

config.py         what can be set
vision.py         images to maps of features: timm networks
connector.py      maps to image tokens: linear, or learnable queries
language.py       the language model and its words: small, SmolLM2, given
model.py          the composed model; logits of the target tokens
processing.py     images and texts as tensors, which tokens count; hubprocessing.py: for Hugging Face's models
lora.py           LoRA on the language part; files of what was learnt
build.py          a model from the configuration, or its shapes alone
export.py         the finished model as a folder
"""
