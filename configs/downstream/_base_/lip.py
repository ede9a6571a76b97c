"""Look Into Person, single-person parsing: 20 classes.

Unpack its archives into one folder, DATA, with train_images, val_images, train_segmentations, val_segmentations,
train_id.txt and val_id.txt.
"""

NAMES = """background hat hair glove sunglasses upper_clothes dress coat socks pants jumpsuits scarf skirt face left_arm
right_arm left_leg right_leg left_shoe right_shoe""".split()
DATA = dict(
    images="{part}_images/{id}.jpg",
    labels="{part}_segmentations/{id}.png",
    ids="{part}_id.txt",
    classes=[(name, number) for number, name in enumerate(NAMES)],
    ignore_ids=[255],
)
TRAIN, VAL = dict(DATA, part="train"), dict(DATA, part="val")
