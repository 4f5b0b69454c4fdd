"""What a detector is worth: COCO metrics, escapes, overkill, calibration."""
