"""The bundle of a promoted detector as an MLflow model, without anything pickled.

Two flavours: ``python_function`` (``vqc.inference.pyfunc``: photographs in, verdicts out) and ``onnx`` (the graph).
The package ``vqc`` is copied beside them, because a server that loads the model need not have it installed.
"""

from __future__ import annotations

import base64
import importlib.metadata
import platform
import shutil
from pathlib import Path

import vqc
from vqc.files import write_atomically, write_json
from vqc.inference.pyfunc import INPUT

REQUIRES = ("mlflow", "numpy", "onnx", "onnxruntime", "opencv-python-headless", "pillow", "pydantic", "scipy")


def write_mlflow_model(bundle: Path, *, example: Path) -> None:
    """Write the file ``MLmodel`` and what it refers to into a bundle that holds ``model.onnx``.

    Args:
        example: a photograph, the input example.
    """
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    shutil.copytree(Path(vqc.__file__).parent, bundle / "code" / "vqc", ignore=_without_cache)
    requirements = [f"{name}=={importlib.metadata.version(name)}" for name in REQUIRES]
    python = {"python": platform.python_version(), "build_dependencies": ["pip"],
              "dependencies": ["-r requirements.txt"]}  # fmt: skip
    write_atomically(bundle / "requirements.txt", "".join(f"{line}\n" for line in requirements).encode())
    conda = {"name": "vqc", "channels": ["conda-forge"],
             "dependencies": [f"python={platform.python_version()}", "pip", {"pip": requirements}]}  # fmt: skip
    write_json(bundle / "python_env.yaml", python)  # JSON is YAML
    write_json(bundle / "conda.yaml", conda)
    data = [[base64.b64encode(example.read_bytes()).decode("ascii")]]
    table = {"columns": [INPUT], "data": data}
    write_json(bundle / "input_example.json", table)
    write_json(bundle / "serving_input_example.json", {"dataframe_split": table})

    model = Model(
        signature=ModelSignature(
            inputs=Schema([ColSpec(DataType.binary, INPUT)]),
            outputs=Schema([ColSpec(DataType.string, "verdict"), ColSpec(AnyType(), "detections")]),  # type: ignore[no-untyped-call]
        ),
        saved_input_example_info={
            "artifact_path": "input_example.json",
            "serving_input_path": "serving_input_example.json",
            "type": "dataframe",
            "pandas_orient": "split",
        },
    )
    # As mlflow.pyfunc.add_to_model does it; importing that module takes seconds and warns of what is not used here.
    model.add_flavor(
        "python_function",
        loader_module="vqc.inference.pyfunc",
        python_version=platform.python_version(),
        code="code",
        env={"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
    )
    onnx = importlib.metadata.version("onnx")
    model.add_flavor("onnx", onnx_version=onnx, data="model.onnx", providers=["CPUExecutionProvider"], code="code")
    draft = bundle / "MLmodel.tmp"  # MLflow writes it in place
    model.save(str(draft))
    write_atomically(bundle / "MLmodel", draft.read_bytes())
    draft.unlink()


def _without_cache(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if not (Path(folder, name).is_dir() or name.endswith((".py", ".j2", ".css")))} | {
        "__pycache__"
    }
