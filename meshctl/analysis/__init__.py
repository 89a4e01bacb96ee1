"""What is wrong with a configuration, before traffic shows it. Pure but for ``sources`` and the command."""
