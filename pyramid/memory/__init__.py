"""How a model lies on a machine: what there is, what a run needs, the plan,
and what is given up when memory runs out.

It may use models, text and hub; it knows no sampler and no pipeline class.
"""
