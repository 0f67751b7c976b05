"""All planted faults."""

from benchmarks.witness import (
    faults_active,
    faults_attention,
    faults_calls,
    faults_choosing,
    faults_cli,
    faults_engine,
    faults_influence,
    faults_integrations,
    faults_losses,
    faults_model,
    faults_operations,
    faults_pool,
    faults_results,
    faults_schemes,
    faults_selection,
    faults_told,
    faults_witness,
)
from benchmarks.witness.fault import Fault

FAULTS: tuple[Fault, ...] = (
    *faults_schemes.FAULTS,
    *faults_losses.FAULTS,
    *faults_witness.FAULTS,
    *faults_told.FAULTS,
    *faults_engine.FAULTS,
    *faults_model.FAULTS,
    *faults_operations.FAULTS,
    *faults_attention.FAULTS,
    *faults_pool.FAULTS,
    *faults_results.FAULTS,
    *faults_active.FAULTS,
    *faults_selection.FAULTS,
    *faults_cli.FAULTS,
    *faults_integrations.FAULTS,
    *faults_calls.FAULTS,
    *faults_influence.FAULTS,
    *faults_choosing.FAULTS,
)
