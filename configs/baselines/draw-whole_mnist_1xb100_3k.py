"""DRAW without attention on binarised MNIST, small: 10 strokes of 10 numbers, LSTMs of 128; minutes on two CPU cores.

Run:     python tools/train.py THIS_FILE --data FOLDER_WITH_THE_DIGITS
Source:  Gregor et al., ICML 2015; sizes and rate are ours, the same as with attention: `draw_mnist_1xb100_3k.py`.
"""

from mmengine.config import read_base

with read_base():
    from .draw_mnist_1xb100_3k import *

model.update(read_size=None, write_size=None)
