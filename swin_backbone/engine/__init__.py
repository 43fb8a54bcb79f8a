"""What mmengine is handed beside the models, imported when a config asks; and what `cli` calls."""
