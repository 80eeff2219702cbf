"""Runs every rule that spans settings and puts what they find at its line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from phaseline.config.checks import (
    architectures,
    batches,
    checkpoints,
    cluster,
    data,
    distillation,
    engine,
    held_out,
    inheritance,
    labelled,
    model,
    names,
    phases,
    preferences,
    schedules,
    sources,
    tokenizers,
)
from phaseline.config.checks.finding import Finding, Place
from phaseline.config.sections import Config
from phaseline.config.tree import Loc, Node, path_text
from phaseline.errors import Fault

PhaseRule = Callable[[Place], Iterator[Finding]]

SESSION_RULES: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    model.model_is_described_once,
    model.model_config_has_a_type,
    architectures.model_config_is_known,
    architectures.model_has_the_head,
    model.factory_arguments_have_a_factory,
    model.revision_is_of_the_hub,
    model.attention_can_run,
    model.vocabulary_covers_the_tokenizer,
    labelled.one_head_serves_all_phases,
    labelled.classes_are_counted,
    names.model_factory_can_be_found,
    names.tokenizer_source_is_known,
    sources.tokenizer_source_arguments_fit_together,
    tokenizers.tokenizer_is_described_once,
    tokenizers.pretrained_tokenizer_can_be_read,
    tokenizers.tokenizer_has_text_to_train_on,
    tokenizers.vocabulary_holds_the_special_tokens,
    tokenizers.special_tokens_are_distinct,
    tokenizers.chat_template_can_be_read,
    names.phase_names_are_unique,
    names.exported_phases_exist,
    cluster.chained_jobs_do_not_requeue,
    cluster.arrays_are_not_chained,
    cluster.ranks_have_gpus,
    cluster.warning_fits_the_time,
    cluster.extra_options_are_extra,
    names.trackers_can_be_found,
    names.wandb_settings_have_an_effect,
    model.export_settings_have_an_effect,
    model.exported_best_is_kept,
)
PHASE_RULES: tuple[PhaseRule, ...] = (
    names.objective_is_known,
    names.sources_are_known,
    names.filters_can_be_found,
    sources.source_arguments_fit_together,
    sources.source_packages_are_installed,
    sources.filters_have_an_effect,
    names.held_out_source_is_known,
    held_out.held_out_is_said_once,
    held_out.held_out_source_has_the_objective_shape,
    held_out.learn_has_an_effect,
    names.optimizer_is_known,
    names.callbacks_can_be_found,
    names.metrics_can_be_found,
    sources.sources_have_the_objective_shape,
    phases.weight_has_an_effect,
    labelled.sequence_length_is_given,
    labelled.numbers_have_no_sequences,
    labelled.labelled_rows_are_single,
    labelled.labels_are_no_text,
    labelled.scaling_has_images,
    data.separation_has_documents,
    data.prefetch_has_workers,
    model.positions_cover_the_sequences,
    batches.tokens_are_whole_sequences,
    batches.micro_batch_fits_the_batch,
    batches.micro_batch_can_be_indexed,
    batches.batch_spreads_over_the_ranks,
    schedules.wsd_has_a_decay,
    schedules.decay_has_an_effect,
    schedules.final_rate_has_an_effect,
    schedules.inverse_sqrt_has_a_warmup,
    schedules.warmup_and_decay_fit,
    schedules.epochs_have_one_source,
    schedules.intervals_are_in_steps_or_tokens,
    engine.zero_settings_have_an_effect,
    engine.offload_has_something_to_move,
    engine.cpu_adam_is_offloaded,
    engine.leaf_modules_have_an_effect,
    engine.deepspeed_settings_are_allowed,
    engine.overlap_needs_all_parameters,
    engine.linear_loss_has_a_transformers_model,
    distillation.teacher_says_which,
    distillation.teacher_is_trained_before,
    distillation.distillation_has_logits,
    checkpoints.best_is_looked_for,
    checkpoints.best_metric_is_measured,
    checkpoints.kept_spans_have_checkpoints,
    checkpoints.copies_wait_behind_the_loop,
    inheritance.inherited_weights_exist,
    inheritance.inherited_phase_is_before,
    inheritance.best_weights_are_kept,
    inheritance.kept_optimizer_exists,
    inheritance.inherited_adapters_fit,
    inheritance.adapters_can_be_made,
    inheritance.frozen_patterns_have_an_effect,
    phases.held_out_prompts_have_pairs,
    phases.samples_have_prompts,
    phases.profiled_steps_are_inside,
    phases.position_ranges_are_inside,
    preferences.answers_are_kept_apart,
    preferences.positions_have_losses,
    preferences.reference_has_weights,
    preferences.reference_stays_as_it_is,
    preferences.smoothing_has_an_effect,
    preferences.reward_head_is_trained,
    preferences.rewards_are_no_text,
    preferences.language_head_is_there,
)


def find_contradictions(
    config: Config, root: Node, more: Sequence[PhaseRule] = (), *, is_partial: bool = False
) -> list[Fault]:
    """Applies every rule.

    Args:
        config: The merged configuration.
        root: The merged tree, for lines.
        more: Rules about phases besides those of this package.
        is_partial: Whether settings that could not be read are left out of `config`; a rule
            that needs one of them then says nothing.
    """
    findings = list(_apply_rules(config, more, is_partial=is_partial))
    unused = {finding.loc for finding in findings if finding.unused}
    findings = [finding for finding in findings if not _is_default_of_others(finding, unused, root)]
    return _locate(findings, root)


def _apply_rules(
    config: Config, more: Sequence[PhaseRule], *, is_partial: bool
) -> Iterator[Finding]:
    # What is left out of a section raises AttributeError when it is looked at.
    forgiven = AttributeError if is_partial else ()
    for rule in SESSION_RULES:
        try:
            yield from list(rule(config))
        except forgiven:
            continue
    for idx, phase in enumerate(getattr(config, "phases", ()) if is_partial else config.phases):
        for phase_rule in (*PHASE_RULES, *more):
            try:
                yield from list(phase_rule(Place(config, idx, phase)))
            except forgiven:
                continue


def _is_default_of_others(finding: Finding, unused: set[Loc], root: Node) -> bool:
    """Whether a setting without effect comes from `defaults` and has one in another phase."""
    node = root.find(finding.loc)
    if not finding.unused or node is None or node.origin[:1] != ("defaults",):
        return False
    num_phases = len((root.find(("phases",)) or root).items or ())
    heirs = [
        ("phases", idx, *finding.loc[2:])
        for idx in range(num_phases)
        if root.origin_of(("phases", idx, *finding.loc[2:])) == node.origin
    ]
    return any(loc not in unused for loc in heirs)


def _locate(findings: list[Finding], root: Node) -> list[Fault]:
    """Faults with file and line; what is wrong with a default in several phases is said once."""
    groups: dict[tuple[Loc, str, str], list[Finding]] = {}
    for finding in findings:
        origin = root.origin_of(finding.loc)
        groups.setdefault((origin, finding.problem, finding.fix), []).append(finding)
    faults = []
    for (origin, problem, fix), members in groups.items():
        loc = members[0].loc
        location = (root.find(loc) or root.nearest(loc)).location
        is_default_of_one = origin[0] != loc[0] and len(members) == 1
        path = path_text(loc if is_default_of_one else origin)
        faults.append(Fault(path, location, problem, fix))
    return faults
