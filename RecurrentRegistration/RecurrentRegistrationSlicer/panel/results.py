"""What an accepted step has become, in words."""

from slicer.i18n import tr as _

from RecurrentRegistrationSlicer import quality


class ResultsSection:
    """The section with the result; what is to be made of it is bound to the parameters."""

    def __init__(self, panel) -> None:
        self._panel = panel

    def update(self) -> None:
        """Bring the section up to date."""
        ui, logic = self._panel.ui, self._panel.logic
        result = logic.run.result if logic.run is not None else None
        ui.resultLabel.text = resultText(result) if result is not None else _("Accept a step to get its result.")
        ui.gridSpacingBox.enabled = self._panel.parameters is not None and self._panel.parameters.transform == "grid"

    def handle(self, event: dict) -> None:
        """Unfold when a result has come."""
        if event["event"] == "result":
            self._panel.ui.resultsSection.collapsed = False


def resultText(result) -> str:
    """The step, its nodes, folding, landmarks, and how the volume change reads."""
    sentences = [_("Step {step} is the result.").format(step=result.step)]
    named = ("transformNode", "inverseNode", "warpedNode", "jacobianNode", "displacementNode", "reportNode")
    nodes = [getattr(result, name) for name in named]
    names = [node.GetName() for node in nodes if node is not None]
    if names:
        sentences.append(_("In the scene: {names}.").format(names=", ".join(names)))
    folding = result.report.get("folding")
    if folding is not None:
        sentences.append(_("Folding: {value:.3g} % of the voxels.").format(value=folding))
    if result.landmarks is not None:
        sentences.append(result.landmarks.sentence)
    if result.jacobianNode is not None:
        sentences.append(quality.JACOBIAN_STATEMENT)
    return " ".join(sentences)
