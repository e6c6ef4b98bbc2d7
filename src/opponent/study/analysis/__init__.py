"""Statistics of the answers: accuracies, the planned test, exclusions, power."""
