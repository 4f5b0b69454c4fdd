"""Escape, overkill and AP of a promoted detector, from its ``detections.json`` alone: the file is the argument."""

import contextlib
import io
import json
import sys

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

said = json.load(open(sys.argv[1], encoding="utf-8"))  # noqa: PTH123, SIM115
parts: dict = {}
for image in said["images"]:
    rejects = any(row["score"] >= said["thresholds"][str(row["category_id"])] for row in image["detections"])
    part = parts.setdefault(image["part"], {"defective": False, "good": True, "rejected": False})
    part["defective"] |= any(not row["iscrowd"] for row in image["annotations"])
    part["good"] &= not image["annotations"]
    part["rejected"] |= rejects
truth, found = COCO(), COCO()
with contextlib.redirect_stdout(io.StringIO()):
    for document, rows in ((truth, "annotations"), (found, "detections")):
        entries = [{**row, "image_id": image["id"]} for image in said["images"] for row in image[rows]]
        for number, row in enumerate(entries, start=1):
            row |= {"id": number, "score": row.get("raw_score"), "iscrowd": row.get("iscrowd", 0)}
            row.setdefault("area", row["bbox"][2] * row["bbox"][3])
        document.dataset = {"images": said["images"], "categories": said["categories"], "annotations": entries}
        document.createIndex()
    evaluation = COCOeval(truth, found, "bbox")
    evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
defective, good = ([part for part in parts.values() if part[kind]] for kind in ("defective", "good"))
print(json.dumps({"escape": [sum(not part["rejected"] for part in defective), len(defective)],
                  "overkill": [sum(part["rejected"] for part in good), len(good)],
                  "ap": evaluation.stats[0], "ap50": evaluation.stats[1]}))  # fmt: skip
