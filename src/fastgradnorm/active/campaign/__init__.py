"""People in the loop: batches to label, their answers as they come, over days and processes."""

from fastgradnorm.active.campaign._argilla import argilla_answers
from fastgradnorm.active.campaign._asked import Asked
from fastgradnorm.active.campaign._campaign import Campaign
from fastgradnorm.active.campaign._label_studio import label_studio_answers
from fastgradnorm.active.campaign._status import Status

__all__ = ["Asked", "Campaign", "Status", "argilla_answers", "label_studio_answers"]
