"""The objectives, each a composition of five factors under its equation. Every ablation of the papers is an argument.

A docstring is the documentation, in four paragraphs: what it is and where it comes from; the equation; the credit of a
token; where paper and released code, or two papers, disagree.

Letters: ``m`` mask, ``L`` length, ``l = log pi_theta``, ``d = l - log pi_old``, ``rho = e^d``; ``k`` one of K
rollouts, ``i`` one of N+ positives, ``j`` one of N- negatives; ``r`` the shaped reward, ``A`` the advantage; ``P_i``
the probability of positive ``i`` in J; ``mean_i`` and ``mean_j`` over a group's positives and negatives; ``p`` a
group's share of positives; ``sg`` stop-gradient; ``[x]_+ = max(x, 0)``. Of J, one group's part is written; a credit
stands before the mean over the step's groups or rollouts, unless it says by what it is divided.
"""
