"""The objectives inside verl: ``worker`` takes the updates, ``trainer`` and ``buffer`` choose rollouts for them, which
``reward`` grades. Nothing is imported here: verl loads each where it is needed.
"""
