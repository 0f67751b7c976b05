"""Models of the transformers library are built from configurations; nothing is downloaded."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before the first import of transformers
