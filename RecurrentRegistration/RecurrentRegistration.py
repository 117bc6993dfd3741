"""3D Slicer module: deformable registration, step by step. What it does is in RecurrentRegistrationSlicer."""

import sys

import numpy as np
import qt
import slicer
import vtk
from RecurrentRegistrationSlicer import checks
from RecurrentRegistrationSlicer import setup as packages
from RecurrentRegistrationSlicer.logic import RegistrationLogic
from RecurrentRegistrationSlicer.panel import Panel
from RecurrentRegistrationSlicer.panel.choices import Choice, fixedChoices
from RecurrentRegistrationSlicer.panel.compare import CompareSection
from RecurrentRegistrationSlicer.panel.method import MethodSection
from RecurrentRegistrationSlicer.panel.parameters import Parameters, settings
from RecurrentRegistrationSlicer.panel.results import ResultsSection
from RecurrentRegistrationSlicer.panel.run import RunSection
from RecurrentRegistrationSlicer.panel.setup import SetupSection
from RecurrentRegistrationSlicer.panel.steps import StepsSection
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

PUMP_INTERVAL = 50  # milliseconds between two looks at what the worker tells
DATA = "https://github.com/Slicer/SlicerTestingData/releases/download/SHA256/"
STORE = "https://github.com/Slicer/SlicerDataStore/releases/download/SHA256/"
TUMOR1 = "998cb522173839c78657f4bc0ea907cea09fd04e44601f17c82ea27927937b95"
TUMOR2 = "1a64f3f422eb3d1c9b093d1a18da354b13bcf307907c66317e2463ee530b7a97"
HEART = "d1a1119969acead6c39c7c3ec69223fa2957edc561bc5bf384a203e2284dbc93"


class RecurrentRegistration(ScriptedLoadableModule):
    """What Slicer shows of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Recurrent Registration")
        parent.categories = ["Registration"]
        parent.dependencies = []
        parent.contributors = ["The RecurrentRegistration contributors"]
        parent.helpText = _(
            "Brings a moving volume onto a fixed one, step by step: watch the steps, stop, continue, and accept the "
            "one you trust. Any CT or MR, 2D or 3D. For research, not for clinical decisions. "
            '<a href="https://github.com/RecurrentRegistration/SlicerRecurrentRegistration#3d-slicer">Tutorial</a>'
        )
        parent.acknowledgementText = _("The papers behind the methods are listed in the file CITATION.cff.")
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer the tutorial's data in the module Sample Data."""
    import SampleData

    category = "Recurrent Registration"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=category,
        sampleName="RecurrentRegistrationBrainPair",
        uris=[DATA + TUMOR1, DATA + TUMOR2],
        fileNames=["RegLib_C01_1.nrrd", "RegLib_C01_2.nrrd"],
        nodeNames=["MRBrainTumor1", "MRBrainTumor2"],
        checksums=[f"SHA256:{TUMOR1}", f"SHA256:{TUMOR2}"],
    )
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=category,
        sampleName="RecurrentRegistrationHeart",
        uris=STORE + HEART,
        fileNames="CT-cardio.seq.nrrd",
        nodeNames="CTCardioSeq",
        checksums=f"SHA256:{HEART}",
        loadFileType="SequenceFile",
    )


class RecurrentRegistrationLogic(RegistrationLogic, ScriptedLoadableModuleLogic):
    """The Python interface, also without a panel: `RecurrentRegistrationLogic().registerVolumes(fixed, moving)`."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        RegistrationLogic.__init__(self)

    def getParameterNode(self):
        """The parameters that are saved with the scene."""
        return Parameters(ScriptedLoadableModuleLogic.getParameterNode(self))


class RecurrentRegistrationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: it holds the sections together, and gives the worker's news to them."""

    def __init__(self, parent=None):
        self.logic = None
        self._panel = None
        self._guiTag = None
        self._entered = False
        VTKObservationMixin.__init__(self)  # first: without a parent, the next line makes the panel too
        ScriptedLoadableModuleWidget.__init__(self, parent)

    def setup(self):
        """Make the panel; works without torch and without a network."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/RecurrentRegistration.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)

        self.logic = RecurrentRegistrationLogic()
        self.logic.listeners.append(self.onEvent)
        self._panel = Panel(self.ui, self.logic, self.update, self.tell)
        self._choices = [self._choice(name, *each) for name, each in fixedChoices().items()]
        self._run, self._steps = RunSection(self._panel), StepsSection(self._panel)
        self._sections = [MethodSection(self._panel), self._run, self._steps, ResultsSection(self._panel)]
        self._sections.append(CompareSection(self._panel))
        self._setup = SetupSection(self._panel, self.onPackages)

        for event, method in (
            (slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose),
            (slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose),
            (slicer.mrmlScene.EndImportEvent, self.onSceneImported),
        ):
            self.addObserver(slicer.mrmlScene, event, method)
        self._timer = qt.QTimer()
        self._timer.setInterval(PUMP_INTERVAL)
        self._timer.timeout.connect(self.onTimer)
        self.initializeParameterNode()
        if getattr(self.parent, "isEntered", False):  # reloaded while it is open: nobody enters it again
            self.enter()

    def cleanup(self):
        """The module is unloaded, or Slicer closes."""
        self._timer.stop()
        self._steps.stop()
        self.logic.shutdown()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """The module is opened: the worker warms up meanwhile."""
        self._entered = True
        self.initializeParameterNode()
        self._setup.look()
        self._timer.start()

    def exit(self):
        """Another module is opened; a run goes on."""
        self._entered = False

    def onReload(self):
        """Developers: take all of the module anew."""
        package = "RecurrentRegistrationSlicer"
        for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
            del sys.modules[name]  # each is imported anew where it is needed first: in the order of dependence
        ScriptedLoadableModuleWidget.onReload(self)

    # The scene -------------------------------------------------------------------------------------------------------

    def initializeParameterNode(self):
        """Bind the parameters, and choose the first two volumes of the scene where none is chosen."""
        parameters = self.logic.getParameterNode()
        if self._panel.parameters is None or self._panel.parameters.parameterNode is not parameters.parameterNode:
            self.setParameterNode(parameters)
        self._offered = None
        self.chooseVolumes()
        self.logic.adoptLatest()
        self.update()

    def chooseVolumes(self):
        """Choose the first two volumes of the scene where none is chosen; again only when others are there."""
        parameters = self._panel.parameters
        volumes = [n for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if not n.GetHideFromEditors()]
        volumes = [node for node in volumes if node.GetClassName() == "vtkMRMLScalarVolumeNode"]
        offered = [node.GetID() for node in volumes]
        if parameters is None or offered == self._offered:
            return
        self._offered = offered
        if parameters.fixedVolume is None and parameters.movingVolume is None and len(volumes) == 2:
            parameters.fixedVolume, parameters.movingVolume = volumes

    def setParameterNode(self, parameters):
        """Bind these parameters to the widgets, and none that were bound before."""
        if self._panel.parameters is not None:
            self._panel.parameters.disconnectGui(self._guiTag)
            self.removeObserver(self._panel.parameters, vtk.vtkCommand.ModifiedEvent, self.onParameters)
        self._panel.parameters = parameters
        if parameters is not None:
            self._guiTag = parameters.connectGui(self.ui)
            self.addObserver(parameters, vtk.vtkCommand.ModifiedEvent, self.onParameters)

    def onParameters(self, caller=None, event=None):
        """Something was chosen."""
        self.update()

    def onSceneStartClose(self, caller=None, event=None):
        """The parameter node is about to go."""
        self.setParameterNode(None)

    def onSceneEndClose(self, caller=None, event=None):
        """The scene is empty now."""
        if self._entered:
            self.initializeParameterNode()

    def onSceneImported(self, caller=None, event=None):
        """A scene was opened: it may bring runs, and other parameters for the same node."""
        self.setParameterNode(None)
        if self._entered:
            self.initializeParameterNode()

    # The worker ------------------------------------------------------------------------------------------------------

    def onTimer(self):
        """Take what the worker has told, and what has become of the inputs."""
        self.logic.pump()
        if self.logic.busy:
            self._steps.showStep()
            self._run.showProgress()
        elif self._entered:  # nodes change without a word: a transform is hardened, a landmark is set
            self.chooseVolumes()
            self._run.update()
            self._steps.update()

    def onEvent(self, event):
        """News of the worker."""
        self.tell(event)
        if event["event"] not in ("step", "log"):  # of these there are many: the timer shows what they change
            self.update()

    def tell(self, event):
        """Give an event to the sections that care."""
        for section in self._sections:
            if hasattr(section, "handle"):
                section.handle(event)

    def onPackages(self):
        """Packages may have come: then the worker can warm up."""
        self._run.lookForPackages()
        if self._entered and self._run.ready:
            self._panel.attempt(self.logic.startWorker)
        self.update()

    def update(self):
        """Bring the whole panel up to date."""
        if self._panel is None:
            return
        for each in (*self._choices, *self._sections):
            each.update()

    def _choice(self, comboBox, name, words):
        choice = Choice(self._panel, getattr(self.ui, comboBox), name)
        choice.offer(words)
        return choice


class RecurrentRegistrationTest(ScriptedLoadableModuleTest):
    """Reload and Test: needs no network and no weights; registers only where PyTorch is installed."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        for test in (self.test_checks, self.test_parameters, self.test_registration):
            self.setUp()
            test()
        self.delayDisplay("Test passed")

    def test_checks(self):
        """What forbids a run is said before it."""
        fixed, moving = self.addBall("Fixed", 0), self.addBall("Moving", 3)
        assert checks.problem(fixed, moving) is None
        assert checks.problem(fixed, None)
        assert checks.problem(fixed, fixed)

    def test_parameters(self):
        """What is chosen becomes settings of a registration."""
        logic = RecurrentRegistrationLogic()
        parameters = logic.getParameterNode()
        parameters.fixedVolume = self.addBall("Fixed", 0)
        parameters.steps = 7
        again = logic.getParameterNode()
        assert again.fixedVolume.GetName() == "Fixed"
        assert settings(again, [])["steps"] == 7
        assert settings(again, [])["refine"] is None
        logic.shutdown()

    def test_registration(self):
        """A ball is brought onto another one; taking it back leaves the scene as it was."""
        if not packages.ready():
            self.delayDisplay("PyTorch is not installed: nothing is registered")
            return
        logic = RecurrentRegistrationLogic()
        fixed, moving = self.addBall("Fixed", 0), self.addBall("Moving", 3)
        before = slicer.mrmlScene.GetNumberOfNodes()
        result = logic.registerVolumes(fixed, moving, steps=20, linear="none", initial="none")
        target = slicer.util.arrayFromVolume(fixed)
        errors = [np.abs(slicer.util.arrayFromVolume(n) - target).mean() for n in (moving, result.warpedNode)]
        assert errors[1] < 0.5 * errors[0]
        logic.revert()
        assert slicer.mrmlScene.GetNumberOfNodes() == before
        logic.shutdown()

    def addBall(self, name, shift):
        """A volume with a ball, `shift` voxels from the middle."""
        k, j, i = np.mgrid[:24, :24, :24] - 11.5
        array = 100 / (1 + np.exp(np.sqrt(k**2 + j**2 + (i - shift) ** 2) - 7))
        return slicer.util.addVolumeFromArray(array.astype(np.float32), name=name)
