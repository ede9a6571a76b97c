"""Names that the library knows and that arguments offer, so that `--help` need not import the library.

A test compares them with the library's.
"""

EXPORT_FORMATS = ("torchvision", "timm", "mmlab", "detectron2", "safetensors", "onnx", "huggingface")
GRAPH_FORMATS = ("onnx", "torch_export")
NORMALIZATIONS = ("imagenet", "unit")
INTERPOLATIONS = ("nearest", "inverse_distance", "fading", "thin_plate", "edge_aware")
ANIMATION_METHODS = ("splat", "backward")
TRACKERS = ("wandb", "mlflow")
PRECISIONS = ("float32", "bfloat16", "auto")
CODECS = ("half16", "png16", "jpeg8", "float16", "float32")
READERS = ("auto", "decord", "pyav", "torchcodec", "torchcodec-cuda")  # of video files
MAX_FRAMES = 100_000  # of an animation
