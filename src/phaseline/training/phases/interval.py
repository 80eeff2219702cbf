"""What a span of steps cost, under the keys of the records."""

from __future__ import annotations

from phaseline.tracking import metric_keys as keys
from phaseline.training.phases.meter import Gauges
from phaseline.training.phases.runtime import PhaseRuntime


def timing_of(runtime: PhaseRuntime, gauges: Gauges, num_steps: int) -> dict[str, float]:
    """Speeds, waits and memory of the steps since the last reading; what is not known is absent.

    Args:
        runtime: The phase, whose clock has taken note of these steps.
        gauges: Over all ranks.
        num_steps: How many steps there were.
    """
    clock, layout = runtime.clock, runtime.layout
    step_s = clock.step_s
    found: dict[keys.Metric, float | None] = {
        keys.DATA_WAIT_S: gauges.data_wait_s / num_steps,
        keys.SAVE_STALL_S: gauges.save_stall_s,
        keys.EVALUATION_S: gauges.evaluation_s,
        keys.HOST_BYTES: gauges.host_bytes,
        keys.DEVICE_PEAK_BYTES: gauges.device_peak_bytes or None,
        keys.DEVICE_RESERVED_BYTES: gauges.device_reserved_bytes or None,
        keys.PHASE_LEFT_S: clock.phase_left_s,
        keys.SESSION_LEFT_S: clock.session_left_s,
    }
    if step_s:
        per_device = clock.tokens_per_s / runtime.world.dp_world_size
        found |= {
            keys.STEP_S: step_s,
            keys.TOKENS_PER_S: clock.tokens_per_s,
            keys.TOKENS_PER_S_PER_DEVICE: per_device,
            keys.SAMPLES_PER_S: layout.global_size / step_s,
            keys.MFU: runtime.utilization.mfu(per_device),
            keys.SAVE_STALL_FRAC: min(1.0, runtime.store.stall_s / clock.elapsed_s),
        }
    phase = runtime.section.name
    return {metric.key(phase): value for metric, value in found.items() if value is not None}
