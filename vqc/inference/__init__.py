"""A trained detector at work: detections, verdicts, ONNX, saliency maps."""
