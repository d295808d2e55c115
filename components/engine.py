"""Flags of Beam: where the work of a component runs, and with whose help."""

from __future__ import annotations

from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, StandardOptions

IN_PROCESS = ("--direct_running_mode=in_memory", "--direct_num_workers=1")
# Which environments of workers have this one's packages: no worker, this process, a process of this machine.
_OWN = (None, "LOOPBACK", "PROCESS")
# TFX looks whether a flag says where workers get their packages from, and else packs itself up for every component,
# into a new folder of 52 MB under /tmp that nobody deletes.
_TELLING = ("sdk_container_image", "setup_file", "requirements_file", "extra_packages")
OWN_RUNNER = "--runner=FnApiRunner"
_NOTHING_TO_PACK = "--sdk_container_image=none"


def beam_flags(flags: Sequence[str]) -> list[str]:
    """`flags`, so completed that TFX packs itself up only for workers that could not do without.

    Without a runner, Beam's Python runner does the work: Beam's default downloads another one where there is a network.
    """
    options = PipelineOptions(list(flags))
    if options.view_as(StandardOptions).runner is None:
        flags = [*flags, OWN_RUNNER]
    environment = options.view_as(PortableOptions).environment_type
    values = options.get_all_options()
    if any(values.get(name) for name in _TELLING) or environment not in _OWN or not (runs_here(flags) or environment):
        return list(flags)
    return [*flags, _NOTHING_TO_PACK]


def runs_here(flags: Sequence[str]) -> bool:
    """Whether Beam's own runner does the work, on this machine."""
    runner = PipelineOptions(list(flags)).view_as(StandardOptions).runner
    return runner in (None, "DirectRunner", "BundleBasedDirectRunner", "SwitchingDirectRunner", "FnApiRunner")


def many_processes(flags: Sequence[str]) -> bool:
    """Whether a machine has several processes of workers."""
    options = PipelineOptions(list(flags))
    if runs_here(flags):
        return "--direct_running_mode=in_memory" not in flags
    return options.view_as(PortableOptions).environment_type != "LOOPBACK"
