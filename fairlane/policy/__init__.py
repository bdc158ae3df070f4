"""Pure decisions on plain values: standard library only; no clock, log, metric or await."""
