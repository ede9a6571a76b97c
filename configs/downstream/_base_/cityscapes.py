"""Folders as Cityscapes lays them out: no list of ids, cities as subfolders; 19 of its label ids are evaluated."""

DATA = dict(
    images="leftImg8bit/{part}/{id}_leftImg8bit.png",
    labels="gtFine/{part}/{id}_gtFine_labelIds.png",
    ids=None,
    classes=[
        ("road", 7),
        ("sidewalk", 8),
        ("building", 11),
        ("wall", 12),
        ("fence", 13),
        ("pole", 17),
        ("traffic_light", 19),
        ("traffic_sign", 20),
        ("vegetation", 21),
        ("terrain", 22),
        ("sky", 23),
        ("person", 24),
        ("rider", 25),
        ("car", 26),
        ("truck", 27),
        ("bus", 28),
        ("train", 31),
        ("motorcycle", 32),
        ("bicycle", 33),
    ],
    ignore_ids=[0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255],  # 255: -1, a license plate
)
NAMES = [name for name, _ in DATA["classes"]]
TRAIN, VAL = dict(DATA, part="train"), dict(DATA, part="val")
