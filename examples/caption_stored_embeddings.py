"""Captions from stored image embeddings: encode once, keep the vectors, caption them whenever you like, with no photo at hand."""

import sys

import numpy as np

from capdec import Captioner
from capdec.images import open_image

captioner = Captioner.load()
vectors = captioner.backbone.encode_image([open_image(path) for path in sys.argv[1:]])
np.save("vectors.npy", vectors.numpy().astype(np.float16))

for caption in captioner.caption_embeddings(np.load("vectors.npy"), backbone=captioner.backbone.fingerprint):
    print(f"{caption.score:6.2f}  {caption.text}")
