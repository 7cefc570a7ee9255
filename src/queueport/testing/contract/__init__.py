"""The contract suite, one module for each group. For adapter authors; import `Contract` from `queueport.testing`.

`lines` describes what every backend must do. `suite` combines the groups. `case` contains the fixtures of all groups.
"""
