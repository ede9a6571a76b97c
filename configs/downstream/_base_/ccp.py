"""Clothing Co-Parsing: photos of one person, 59 label ids merged to eight classes. The merging is ours."""

DATA = dict(
    images="images/{id}.jpg",
    labels="labels/{id}.png",
    ids="{part}.txt",
    classes=[
        ("background", [0]),
        ("hair", [19]),
        ("skin", [41]),
        ("upper", [4, 5, 6, 8, 10, 11, 13, 22, 24, 26, 38, 48, 49, 51, 54, 55]),
        ("dress", [14, 35, 46]),
        ("lower", [25, 27, 31, 40, 42, 45, 53]),
        ("footwear", [7, 12, 16, 21, 28, 32, 36, 39, 43, 44, 58]),
        ("other", [1, 2, 3, 9, 15, 17, 18, 20, 23, 29, 30, 33, 34, 37, 47, 50, 52, 56, 57]),
    ],
    ignore_ids=[],
)
NAMES = [name for name, _ in DATA["classes"]]
TRAIN, VAL = dict(DATA, part="train"), dict(DATA, part="val")
