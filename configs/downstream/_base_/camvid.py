"""CamVid as packed with SegNet: 11 classes, 11 is void; 367 images to train on, 101 to validate, 233 to test."""

NAMES = "sky building pole road pavement tree sign_symbol fence car pedestrian bicyclist".split()
DATA = dict(
    images="{part}/{id}.jpg",  # .png in the original
    labels="{part}annot/{id}.png",
    ids="{part}.txt",
    classes=[(name, number) for number, name in enumerate(NAMES)],
    ignore_ids=[11],
)
TRAIN, VAL = dict(DATA, part="train"), dict(DATA, part="val")
