"""The paper's claim in the small: one network and the same clips, trained in three ways at equal cost."""
