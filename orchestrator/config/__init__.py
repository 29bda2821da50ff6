"""hafarm.yaml: read with marks, checked strictly, turned into the model's plain values."""
