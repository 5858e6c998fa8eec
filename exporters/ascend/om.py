"""ONNX (or AIR) → OM: compiled by `atc` for one Ascend chip, static batch or batch gears, AIPP on request.

The ONNX variant is taken, and the AIR variant only where there is none: AIR is deprecated. The OM cannot be run on this
machine, so its `agreement` is empty: what it computes shows in the parity of its records.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from exporters.ascend import aipp, atc
from exporters.source_variant import source
from harness import machine, storage
from harness.build import OmRequest
from harness.detector.artifact import HEAD, SIMULATED_OM, Artifact, Target, TensorSpec, Variant
from harness.detector.preprocess import Windows
from harness.errors import UsageError

_AIPP_FILE = "aipp.cfg"
_OUTPUT_DTYPES = {"FP32": "float32", "FP16": "float16"}
_PLAIN_PATH = re.compile(r"[\w./-]+", re.ASCII)
GEARS = (2, 100)
"""Fewest and most batch gears."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `atc` will be asked, all of it known before it runs."""

    id: str
    """Of the variant, before it shows whether the simulator wrote it."""
    source: Variant
    """What is compiled."""
    cann: str
    program: tuple[str, ...]
    arguments: tuple[str, ...]
    aipp: str | None
    """Contents of the AIPP file."""
    input: TensorSpec
    input_stage: str
    contains: tuple[str, ...]

    @property
    def staged(self) -> str:
        """What the source is called where `atc` runs."""
        return f"model.{self.source.format}"


def dry_run(artifact: Artifact, request: OmRequest, *, head_in_graph: bool) -> str:
    """The command and the AIPP file that an export would use, as text; writes nothing, and needs no `atc`.

    Raises:
        ArtifactError: no variant to compile.
        UsageError: the request does not fit the artifact or the toolkit.
    """
    plan = _plan(artifact, request, head_in_graph=head_in_graph)
    lines = [
        f"# {artifact.path}: {plan.source.model} → {plan.id}, staged as {plan.staged} (CANN {plan.cann})"
    ]
    lines.append(shlex.join((*plan.program, *plan.arguments)))
    if plan.aipp is not None:
        lines += [f"# {_AIPP_FILE}", plan.aipp.rstrip()]
    return "\n".join(lines)


def export(artifact: Artifact, *, head_in_graph: bool = False, om: OmRequest | None = None) -> Variant:
    """Compile a variant into the artifact folder and describe it; `atc`'s whole output is kept beside it.

    Raises:
        ArtifactError: no variant to compile.
        ExportError: `atc` failed, or the model cannot be brought into an opset it takes.
        ExportMismatch: the model in another opset computes something else.
        Unavailable: no `atc` here.
        UsageError: the request does not fit the artifact or the toolkit, or files cannot be written.
    """
    if om is None:
        raise UsageError(
            f"{artifact.path}: an OM is compiled for one chip: "
            f"python -m harness export {shlex.quote(str(artifact.path))} --format om --soc Ascend310"
        )
    request = om
    plan = _plan(artifact, request, head_in_graph=head_in_graph)
    program = atc.program(request.atc)
    storage.require_writable(artifact.path)
    failed_log = artifact.path / f"{plan.id}.atc-failed.log"
    with tempfile.TemporaryDirectory(prefix="atc-") as name:
        folder = Path(name)
        if not _PLAIN_PATH.fullmatch(name):
            raise UsageError(
                f"{name}: atc refuses such paths; set TMPDIR to a folder of plain letters and digits"
            )
        software = _stage(artifact, plan, folder)
        compiled, log = atc.run(
            (*program, *plan.arguments),
            folder,
            cann=plan.cann,
            timeout_s=request.timeout_s,
            failed_log=failed_log,
        )
        with compiled.open("rb") as file:
            simulated = file.read(len(SIMULATED_OM)) == SIMULATED_OM
        id_ = f"{plan.id}-simulated" if simulated else plan.id
        model = artifact.path / f"{id_}.om"
        storage.write_bytes(artifact.path / f"{id_}.atc.log", log)
        files = {model.name: storage.sha256_of_file(compiled)}
        if plan.aipp is not None:
            configuration = artifact.path / f"{id_}.{_AIPP_FILE}"
            storage.write_bytes(configuration, plan.aipp.encode())
            files[configuration.name] = storage.sha256_of_file(configuration)
        with storage.replacing(model) as temporary:
            shutil.copyfile(compiled, temporary)
    failed_log.unlink(missing_ok=True)
    options = {"precision_mode": request.precision_mode, "output_type": request.output_type}
    return Variant(
        id=id_,
        format="om",
        precision=request.precision_mode,
        input=plan.input,
        input_stage=plan.input_stage,
        outputs=tuple(
            msgspec.structs.replace(
                output,
                dtype=_OUTPUT_DTYPES[request.output_type],
                shape=(plan.input.shape[0], *output.shape[1:]),
            )
            for output in plan.source.outputs
        ),
        contains=plan.contains,
        files=files,
        agreement={},
        software=software,
        target=Target(soc=request.soc, cann=plan.cann, options=options, simulated=simulated),
        gears=request.batches,
    )


def _plan(artifact: Artifact, request: OmRequest, *, head_in_graph: bool) -> Plan:
    _check(request)
    source_ = source(artifact, ("onnx", "air"), head_in_graph=head_in_graph)
    if source_.gears and source_.gears != request.batches:
        raise UsageError(
            f"{artifact.path}: {source_.id} is of batch {source_.gears[0]} alone: leave out --batch and --gears, or export ONNX"
        )
    cann = request.cann or machine.require_cann_version({} if request.atc == atc.SIMULATED else os.environ)
    static = len(request.batches) == 1
    batch = request.batches[0] if static else None
    name, shape = source_.input.name, source_.input.shape
    channels, height, width = (int(size or 0) for size in shape[1:])
    input_, stage, contains, configuration = (
        TensorSpec(name=name, dtype=source_.input.dtype, shape=(batch, *shape[1:])),
        source_.input_stage,
        source_.contains,
        None,
    )
    if request.aipp:
        steps = artifact.manifest.preprocessing
        if stage == Windows.__struct_config__.tag:
            raise UsageError(
                f"{artifact.path}: --aipp: the head of {artifact.manifest.detector} compares the network's output with its float "
                "input, which AIPP leaves on the chip; leave it out, or add --head-in-graph"
            )
        configuration = aipp.configuration(steps, height=height, width=width)
        stage, taken = aipp.taken_over(steps)
        contains = (*taken, *source_.contains)
        input_ = TensorSpec(name=name, dtype="uint8", shape=(batch, height, width, channels))
    batches = "-".join(map(str, request.batches))
    parts = [
        "om",
        request.precision_mode,
        request.soc,
        f"cann{cann}",
        f"{'b' if static else 'gears'}{batches}",
    ]
    parts += ["out16"] if request.output_type == "FP16" else []
    parts += ["air"] if source_.format == "air" else []
    parts += ["aipp"] if request.aipp else []
    parts += [HEAD] if head_in_graph else []
    return Plan(
        id="-".join(parts).lower(),
        source=source_,
        cann=cann,
        program=("atc",) if request.atc == atc.SIMULATED else tuple(shlex.split(request.atc)),
        arguments=atc.arguments(
            request,
            source_.input,
            model=f"model.{source_.format}",
            aipp=_AIPP_FILE if request.aipp else None,
        ),
        aipp=configuration,
        input=input_,
        input_stage=stage,
        contains=contains,
    )


def _check(request: OmRequest) -> None:
    if not re.fullmatch(r"Ascend\w+", request.soc, re.ASCII):
        raise UsageError(
            f"--soc {request.soc}: the Name that npu-smi info shows, after Ascend: Ascend310, Ascend310P3, Ascend310B4"
        )
    fewest, most = GEARS
    batches = request.batches
    if list(batches) != sorted(set(batches)) or batches[0] < 1 or len(batches) > most:
        raise UsageError(f"--gears: {fewest} to {most} different batch sizes, ascending: 1,4,8")


def _stage(artifact: Artifact, plan: Plan, folder: Path) -> dict[str, str]:
    """Put what `atc` reads into `folder`; gives the versions behind the model."""
    file = artifact.model_file(plan.source)
    software = plan.source.software | {
        "cann": plan.cann,
        "source": plan.source.id,
        "source_sha256": plan.source.files[plan.source.model],
    }
    if plan.aipp is not None:
        (folder / _AIPP_FILE).write_text(plan.aipp, encoding="utf-8")
    if plan.source.format != "onnx":
        shutil.copyfile(file, folder / plan.staged)
        return software
    from exporters import opset  # onnx is not needed for AIR

    return software | {"opset": str(opset.stage(file, folder / plan.staged, plan.cann))}
