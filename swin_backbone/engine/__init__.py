"""What mmengine is handed beside the models; nothing here is imported unless a config asks."""
