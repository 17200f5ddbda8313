"""Sources that read public formats: one declaration each, most of them presets over `data_prep.pipeline.presets`."""
