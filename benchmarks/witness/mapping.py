"""Which tests should see a fault: by file, the most telling first."""

from benchmarks.witness.fault import Fault

# What looks at samples again, wherever it looks.
_LOOKS = (
    "engine/test_small_numbers witness/test_rounding witness/test_choice witness/test_company "
    "witness/test_left_as_it_was witness/test_formulas witness/test_seen_logits "
    "any_model/test_reached test_linalg"
)

# By how a path begins, files and folders below `tests`; the longest beginning counts.
TESTS = {
    "_pool/scored": "cuda/test_emulated_device",
    "_schemes/posterior": "schemes/test_ruled_out schemes/test_dense test_scoring",
    "_schemes/objective": "engine/test_combinations schemes/test_dense schemes/test_likelihoods "
    "any_model/test_control_flow test_errors",
    "_operations/losses": "schemes/test_losses_of_models operations/test_cross_entropy",
    "_model/labels": "schemes/test_labels schemes/test_losses_of_models schemes/test_lists_beside",
    "_model/beyond": "schemes/test_targets",
    "_schemes/targets": "schemes/test_targets schemes/test_labels",
    "_witness/labels": "schemes/test_targets",
    "_witness/samples": "pool/test_special_inputs witness/test_choice witness/test_company "
    "engine/test_small_numbers witness/test_rounding witness/test_seen_logits",
    "_model/own_loss": "schemes/test_labels schemes/test_losses",
    "_engine/directed": "directions/test_cosines directions/test_dots directions/test_layers",
    "_engine/vectors": "directions/test_cosines directions/test_dots directions/test_layers",
    "_engine/forward": "directions/test_forward",
    "_engine/linear_taps": "directions/test_dots engine/test_sketched test_sketch",
    "_engine/sketched": "directions/test_options engine/test_sketched "
    "engine/test_sketched_norms test_sketch test_sketch_store",
    "_operations/tensor_sketch": "operations/test_tensor_sketch test_sketch",
    "_directions/states": "directions/test_names directions/test_states",
    "_directions/dots": "directions/test_names directions/test_teachers directions/test_options "
    "directions/test_cosines directions/test_metric directions/test_dots directions",
    "_directions/metric": "directions/test_metric directions/test_dots",
    "_directions/means": "directions/test_means directions/test_options directions/test_dots "
    "directions/test_layers any_model/test_clipped_gradients",
    "_explained": "test_explain_gradients",
    "_engine/explain_linear": "test_explain_gradients",
    "_sketches/dots": "test_sketch_dots",
    "_sketches/store": "test_sketch_store",
    "_sketches/writing": "test_sketch_store test_sketch_store_norms",
    "_sketches/sketched": "directions/test_options engine/test_sketched_norms test_sketch "
    "engine/test_sketched engine/test_sketched_alone any_model/test_clipped_gradients "
    "test_sketch_store",
    "_directions/directions": "directions/test_states directions/test_dots directions",
    "_directions/pulled": "directions/test_options directions/test_dots test_sketch "
    "any_model/test_clipped_gradients",
    "_schemes/losses": "schemes/test_losses schemes/test_labels schemes/test_losses_of_models",
    "_schemes/labelled": "schemes/test_own_losses schemes/test_losses",
    "_schemes/groups": "schemes/test_labels",
    "_schemes/table": "engine/test_combinations schemes/test_likelihoods",
    "_schemes/pull_backs": "schemes/test_dense schemes/test_likelihoods",
    "_schemes": "engine/test_combinations engine/test_rtol_draws engine/test_rtol",
    "_engine/together": "engine/test_together engine/test_together_watched engine/test_head_uses",
    "_witness/disturbed": "engine/test_disturbed",
    "_engine/traced": "engine/test_traced engine/test_traced_random engine/test_traced_threads",
    "_engine/traces": "engine/test_traced engine/test_traced_threads engine/test_traced_layouts "
    "engine/test_traced_kinds engine/test_traced_contract",
    "_engine/lengths": "pool/test_lengths",
    "_engine/lighter": "engine/test_lighter",
    "_engine/rtol": "engine/test_combinations engine/test_in_place_inputs engine/test_rtol",
    "_engine/outcome": "engine/test_combinations engine/test_last_layer_output "
    "schemes/test_likelihoods",
    "_engine/engine": "engine/test_combinations any_model/test_slow_paths "
    "engine/test_known_reasons any_model/test_control_flow any_model/test_clipped_gradients",
    "_engine/passes": "engine/test_together_later engine/test_in_place_inputs engine/test_rtol "
    "engine/test_combinations cuda/test_emulated_device any_model/test_clipped_gradients",
    "_engine/tapped": "engine/test_combinations engine/test_parameters any_model/test_reached "
    "any_model/test_raw_parameters engine/test_memory engine/test_chunks",
    "_engine/plain": "engine/test_combinations process/test_side_effects",
    "_engine/plan": "any_model/test_meta_and_nested engine/test_last_layer_made "
    "engine/test_combinations process/test_side_effects test_errors "
    "any_model/test_weight_standardisation any_model/test_custom_functions",
    "_engine/head_input": "engine/test_head_uses engine/test_last_layer_output",
    "_engine/taps": "engine/test_head_uses engine/test_small_numbers any_model/test_control_flow "
    "any_model/test_reached operations/test_frozen any_model/test_raw_parameters",
    "_engine/coverage": "any_model/test_reached model/test_transposed engine/test_parameters "
    "any_model/test_raw_parameters any_model/test_control_flow any_model/test_execution",
    "_engine/chunks": "engine/test_chunks engine/test_memory test_guarantees pool/test_checkpoint",
    "_model/batches": "test_batch_errors model/test_dropped_inputs model/test_constants "
    "engine/test_combinations test_errors integrations/test_huggingface",
    "_model/branches": "any_model/test_control_flow any_model/test_slow_paths",
    "_model/chance": "test_randomness",
    "_model/generators": "test_randomness pool/test_kept_calls",
    "_model/origin": "engine/test_last_layer_made",
    "_model/shadow": "model/test_shadow process/test_side_effects any_model/test_execution",
    "_model/buffers": "test_buffers any_model/test_written_buffers process/test_side_effects",
    "_model/subject": "any_model/test_marked_tensors any_model/test_inference_mode "
    "engine/test_small_numbers engine/test_combinations schemes/test_outputs "
    "engine/test_parameters test_scoring any_model/test_retied",
    "_model/glance": "model/test_changes pool/test_kept_calls",
    "_model/changes": "model/test_changes model/test_changes_beside",
    "_model/beside": "model/test_changes_beside model/test_changes_of_classes test_randomness",
    "_model/plain_values": "model/test_changes_beside model/test_changes",
    "_model/sameness": "pool/test_single_calls",
    "_model/snapshot": "pool/test_kept_calls pool/test_kept_calls_elsewhere",
    "_model/modes": "model/test_modes",
    "_model/own_levels": "any_model/test_derivatives_within",
    "_model/returned": "schemes/test_outputs engine/test_combinations schemes/test_dense",
    "_model/derivatives": "any_model/test_plain_derivatives",
    "_model/views": "model/test_slices any_model/test_raw_parameters operations",
    "_model/watch": "operations/test_conjugates "
    "test_errors any_model/test_weight_standardisation any_model/test_embeddings "
    "cuda/test_emulated_device any_model/test_inference_mode any_model/test_written_buffers",
    "_model/record": "engine/test_last_layer_written_out engine/test_last_layer_after "
    "any_model/test_plain_derivatives engine/test_last_layer_output engine/test_parameters",
    "_model/stored": "model/test_stored",
    "_model/uncut": "schemes/test_lists_beside",
    "_model/standins": "any_model/test_derivatives_by_parameters any_model/test_data_setter "
    "any_model/test_modules_beside any_model/test_execution any_model/test_retied",
    "_model/handed": "any_model/test_casts any_model/test_modules_beside any_model/test_reached "
    "any_model/test_control_flow",
    "_model/marks": "any_model/test_marked_tensors any_model/test_retied",
    "_model/layout": "model/test_memory_layout",
    "_model/lineage": "engine/test_last_layers_in_a_row",
    "_model/substitution": "any_model/test_structured_control_flow any_model/test_norm_layers "
    "operations",
    "_operations/activations": "operations/test_activations",
    "_operations/embeddings": "any_model/test_embeddings operations/test_layers",
    "_operations/convolutions": "any_model/test_convolutions operations/test_layers "
    "operations/test_rules",
    "_operations/attention": "any_model/test_attention any_model/test_attention_heads "
    "any_model/test_attention_ways operations/test_attention_shared",
    "_operations/linalg": "test_linalg",
    "_operations/numbers": "test_complex",
    "_operations/table": "any_model/test_structured_control_flow test_complex operations",
    "_operations/recurrent": "any_model/test_packed_sequences any_model/test_recurrent "
    "any_model/test_folded_recurrences operations/test_layers",
    "_operations/recurrence": "any_model/test_recurrent any_model/test_folded_recurrences",
    "_operations/folded_recurrences": "any_model/test_folded_recurrences",
    "_operations/numbered": "any_model/test_numbered_indices",
    "_operations/writing": "any_model/test_written_indices",
    "_operations/control_flow": "any_model/test_structured_control_flow",
    "_operations/picking": "any_model/test_numbered_indices any_model/test_picking "
    "any_model/test_written_indices operations/test_counting",
    "_operations/packed": "any_model/test_packed_sequences",
    "_operations/counting": "operations/test_counting",
    "_operations/ctc": "operations/test_ctc",
    "_operations/conjugates": "operations/test_conjugates",
    "_operations/spectra": "operations/test_spectra",
    "_operations/sparse": "any_model/test_sparse_buffers",
    "_operations/placing": "operations/test_unbatched any_model/test_picking",
    "_operations/unbatched": "operations/test_unbatched",
    "_operations/unbatched_losses": "operations/test_unbatched operations/test_unbatched_losses",
    "_operations/others": "operations/test_arguments operations/test_layers "
    "any_model/test_raw_parameters any_model/test_norm_layers any_model/test_clipped_gradients",
    "_operations/pooling": "operations/test_max_pool operations",
    "_operations/rules": "any_model/test_embeddings model/test_transposed engine/test_parameters "
    "any_model/test_raw_parameters operations/test_layers",
    "_operations/norms": "any_model/test_norm_layers operations/test_layers "
    "operations/test_rms_norm",
    "_operations/fused_norms": "any_model/test_norm_layers any_model/test_weight_standardisation "
    "operations/test_layers operations/test_light",
    "_operations/linear": "operations/test_layers operations/test_linear "
    "any_model/test_raw_parameters",
    "_operations/products": "operations/test_calls any_model/test_raw_parameters "
    "operations/test_linear operations/test_layers",
    "_operations/rows": "operations/test_frames_of_norms operations/test_layers "
    "any_model/test_norm_layers",
    "_operations": "operations/test_layers operations/test_light any_model/test_raw_parameters "
    "any_model/test_norm_layers any_model/test_embeddings any_model/test_weight_standardisation",
    "_witness": _LOOKS,
    "_witness/logits": f"witness/test_teachers {_LOOKS}",
    "_witness/formulas": "witness/test_smallest_numbers witness/test_formulas schemes/test_losses",
    "_witness/gradients": "witness/test_smallest_numbers engine/test_last_layers_in_a_row "
    + _LOOKS,
    "_witness/noting": "witness/test_cut_off witness/test_left_as_it_was",
    "_witness/witness": f"engine/test_disturbed witness/test_cut_off {_LOOKS}",
    "_witness/loss": "witness/test_losses_that_compare schemes/test_labels",
    "_witness/meaning": "witness/test_dimensions witness/test_silence",
    "_witness/scores": "witness/test_scores witness/test_silence",
    "_witness/disagreements": "witness/test_disagreements",
    "_witness/inputs": "witness/test_inputs",
    "_witness/numbers": "witness/test_probabilities witness/test_silence",
    "_model/declared": "witness/test_declared",
    "_model/sizes": "model/test_what_is_a_batch model/test_containers",
    "_witness/own_call": "any_model/test_marked_tensors "
    "witness/test_carried witness/test_left_as_it_was witness/test_company "
    "witness/test_kept witness/test_choice witness/test_seen_logits any_model/test_reached",
    "_model/held": "witness/test_carried model/test_shadow witness/test_left_as_it_was",
    "_options": "pool/test_checkpoint_options",
    "_pool/identity": "pool/test_what_is_remembered pool/test_checkpoint distributed/test_likeness",
    "_pool/functions": "pool/test_what_functions_hold pool/test_what_is_remembered",
    "_pool/checkpoint": "pool/test_what_is_remembered pool/test_checkpoint pool/test_kills",
    "_pool/places": "pool/test_places pool/test_places_of_any_kind pool/test_collation",
    "_pool/run": "pool/test_what_is_remembered pool/test_checkpoint pool/test_subset "
    "pool/test_held_back pool/test_failing_scores",
    "_pool/single": "pool/test_single_calls pool/test_kept_calls",
    "_pool/store": "pool/test_what_is_remembered pool/test_checkpoint pool/test_held_back",
    "_pool/gather": "pool/test_stacked pool/test_trimming pool/test_any_batch_size "
    "pool/test_held_back pool/test_failing_scores",
    "_pool/trimming": "pool/test_trimming pool/test_lengths",
    "_pool/stacked": "pool/test_stacked",
    "_pool/bundles": "pool/test_bundles pool/test_special_inputs",
    "_pool/draws": "pool/test_collation pool/test_order pool/test_order_told pool/test_subset "
    "pool/test_bundles",
    "_pool/taking": "pool/test_bundles pool/test_stacked",
    "_pool/failing": "pool/test_failing_scores pool/test_failing_samples",
    "_pool/alike": "pool/test_any_batch_size pool/test_bundles",
    "_pool/reading": "pool/test_stacked pool/test_order pool/test_subset "
    "pool/test_bundles_labelled",
    "_witness/several": "pool/test_stacked pool/test_bundles",
    "_pool/ledger": "pool/test_any_batch_size",
    "_pool/earlier": "pool/test_checkpoint pool/test_held_back",
    "_model/raw": "test_batch_errors test_errors",
    "_model/given": "pool/test_any_batch_size",
    "_pool/samples": "pool/test_subset distributed/test_share pool/test_what_is_remembered",
    "_pool/collation": "pool/test_collation pool/test_getitems",
    "_pool/order": "pool/test_collation pool/test_order pool/test_order_told pool/test_subset",
    "_pool/shares": "distributed/test_share distributed/test_torchrun",
    "_pool": "pool/test_what_is_remembered pool/test_shared_run pool/test_subset results "
    "distributed/test_torchrun",
    "_pool/loaders": "pool/test_shared_run pool/test_subset",
    "_pool/shared_run": "pool/test_shared_run distributed/test_torchrun",
    "_pool/ranks": "pool/test_shared_run distributed/test_torchrun",
    "_results": "results pool/test_subset",
    "_results/described": "acquire/test_combinations acquire/test_selection",
    "_selection/by_score": "results pool/test_subset",
    "_selection/kmeans_pp": "active/test_strategies selection",
    "_selection/embedding": "active/test_strategies selection",
    "_selection": "selection active/test_strategies",
    "_acquire": "acquire/test_given acquire/test_combinations acquire/test_pools acquire",
    "_gather": "acquire/test_combinations acquire/test_one_pass acquire/test_resuming acquire",
    "_reading": "acquire/test_combinations acquire/test_pools acquire/test_resuming acquire",
    "_candidates": "acquire/test_combinations acquire/test_given acquire",
    "_selection/free": "acquire/test_combinations selection",
    "_naive": "pool/test_order_told model/test_dropped_inputs test_scoring",
    "_scorer": "results/test_units_and_places pool/test_subset test_errors test_scoring",
    "_process/gradients": "witness/test_gradients_kept",
    "_process/memory": "process engine/test_memory",
    "_process/precision": "test_float32 test_threads",
    "_process": "process/test_process_state process/test_random_states test_threads "
    "test_randomness any_model/test_row_by_row",
    "atomic": "results cli/test_cli_disk",
    "_sketches/sketch": "engine/test_combinations test_sketch test_sketch_store "
    "test_sketch_store_norms",
    "_pool/rows": "test_sketch_store",
    "active/campaign": "active/test_campaign_rounds active/test_campaign active/test_campaign_keys "
    "active/test_campaign_trouble active/test_campaign_processes active/test_campaign_labels",
    "active/_learner": "active/test_seeds_and_settings active/test_options_of_tasks "
    "active/test_learner active/test_resume",
    "active/_records": "active/test_seeds_and_settings active/test_records",
    "active/_randomness": "active/test_seeds_and_settings",
    "active": "active/test_options_of_tasks active/test_seeds_and_settings active/test_strategies "
    "active/test_records active/test_resume",
    "cli/_classes": "cli/test_cli_classes",
    "cli/_acquire": "cli/test_cli_acquire cli/test_cli_campaign cli/test_cli_resuming",
    "cli/_score": "cli/test_cli_predictions cli/test_cli_score cli/test_cli_failures "
    "cli/test_cli_options",
    "cli/_resuming": "cli/test_cli_resuming cli/test_cli_options",
    "cli/_wording": "cli/test_cli_wording",
    "cli/_labelled": "cli/test_cli_acquire cli/test_cli_labelled",
    "cli/_campaign": "cli/test_cli_campaign cli/test_cli_resuming",
    "cli/_images": "cli/test_cli_images",
    "cli/_report": "cli/test_cli_pictures cli/test_cli_score",
    "cli/_pool": "cli/test_cli_pictures cli/test_cli_score cli/test_cli_transforms",
    "cli/_table_pool": "cli/test_cli_transforms cli/test_cli_missing",
    "cli/_sam": "cli/test_cli_transforms cli/test_cli_labelled",
    "cli/_placing": "cli/test_cli_places",
    "cli/_tokenizing": "cli/test_cli_tokenizers",
    "cli": "cli/test_cli_options cli/test_cli_pictures cli/test_cli_score cli/test_cli_failures "
    "cli/test_cli_wording",
    "integrations/_by_sample": "integrations/test_skorch integrations/test_skactiveml",
    "integrations/small_text": "integrations/test_small_text",
    "integrations/huggingface": "integrations/test_huggingface",
    "integrations/skactiveml": "integrations/test_skactiveml integrations/test_skactiveml_acquire",
    "integrations/lightning": "integrations/test_lightning",
    "integrations/skorch": "integrations/test_skorch",
    "integrations/baal": "integrations/test_baal",
    "integrations/ray_data": "distributed/test_ray_data",
    "integrations/recipes": "integrations/test_recipes",
    "kernels/fastgradnorm_kernels/_narrow": "kernels/test_narrow_products",
    "kernels/fastgradnorm_kernels/_products": "kernels/test_large_products",
    "kernels/fastgradnorm_kernels/_sample_groups": "kernels/test_sample_groups",
    "kernels/fastgradnorm_kernels/operators": "kernels/test_sample_groups",
    "kernels/fastgradnorm_kernels/_torch_norms": "kernels/test_narrow_products "
    "kernels/test_large_products",
    "kernels/fastgradnorm_kernels/bucket_sums": "kernels/test_bucket_sums",
    "kernels/fastgradnorm_kernels/assigning": "process/test_process_state",
    "kernels/fastgradnorm_kernels/checkpoints": "witness/test_cut_off",
    "kernels/fastgradnorm_kernels/recurrent_norm": "kernels/test_recurrent_norm",
    "kernels/fastgradnorm_kernels/squares": "kernels/test_squares",
    "kernels/fastgradnorm_kernels/switches": "process/test_process_state "
    "any_model/test_private_paths",
}


def paths_of(fault: Fault) -> list[str]:
    """Paths below the repository.

    Raises:
        ValueError: If nothing is known to look at the file.
    """
    known = [start for start in TESTS if fault.file.startswith(start)]
    if not known:
        raise ValueError(f"No tests are known to look at {fault.file}. Name them in `TESTS`.")
    return [f"tests/{n}" + ".py" * ("test_" in n) for n in TESTS[max(known, key=len)].split()]
