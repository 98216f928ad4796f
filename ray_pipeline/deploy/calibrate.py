"""The ranges of a network's values, as TensorRT reads them to compute in 8 bits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from ray_pipeline.deploy.providers import CALIBRATION
from ray_pipeline.model.quantize import Arrays


def table(network: bytes, batches: Iterable[Arrays]) -> bytes:
    """The range of every value of `network` over `batches` of what it reads, as FlatBuffers.

    The table is of ONNX Runtime's own making: the largest magnitude of each value by its name.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator
    from onnxruntime.quantization.quant_utils import write_calibration_table

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> Arrays | None:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        path.write_bytes(network)
        calibrator = create_calibrator(
            str(path),
            [],
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        calibrator.set_execution_providers(["CPUExecutionProvider"])
        calibrator.collect_data(Reader())
        write_calibration_table(calibrator.compute_data().data, dir=folder)
        return (Path(folder) / CALIBRATION).read_bytes()
