"""Small models of every kind with golden hashes, to show that exact arithmetic is exact on this machine.

obverse selftest                     compare every case with what is recorded
python -m obverse.selftest --record  record anew; `git diff` then shows which cases changed

Numbers of a released version never change. A change of arithmetic shows as changed hashes, and asks for a new
`obverse.numerics.SPECIFICATION`.
"""
