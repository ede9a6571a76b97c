"""PASCAL VOC 2012 as it unpacks (DATA is VOCdevkit/VOC2012); 255 is the void around objects.

With the augmented labels (Hariharan et al., ICCV 2011), for a list ImageSets/Segmentation/trainaug.txt of ids.
"""

NAMES = """background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
pottedplant sheep sofa train tvmonitor""".split()
DATA = dict(
    images="JPEGImages/{id}.jpg",
    labels="SegmentationClassAug/{id}.png",  # SegmentationClass: the original labels, with part="train" below
    ids="ImageSets/Segmentation/{part}.txt",
    classes=[(name, number) for number, name in enumerate(NAMES)],
    ignore_ids=[255],
)
TRAIN, VAL = dict(DATA, part="trainaug"), dict(DATA, part="val")
