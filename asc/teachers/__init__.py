"""Teachers: pretrained networks whose embeddings turn few labels and many recordings into training targets."""

from asc.teachers.efficientat import EfficientAT
from asc.teachers.onnx import OnnxTeacher
from asc.teachers.teacher import Teacher

__all__ = ["EfficientAT", "OnnxTeacher", "Teacher"]
