"""The objectives, each a composition of five factors under its equation. Every ablation of the papers is an argument.

A docstring is the documentation, in four paragraphs: what it is and where it comes from; the equation; the credit of a
token; where paper and released code, or two papers, disagree.

Letters: ``m`` mask, ``L`` length, ``l = log pi_theta``, ``d = l - log pi_old``, ``rho = e^d``; ``k`` one of K rollouts,
``i`` a positive, ``j`` a negative; ``r`` the shaped reward, ``A`` the advantage; ``[x]_+ = max(x, 0)``. A credit stands
before the mean over the step's groups or rollouts, unless it says by what it is divided.
"""
