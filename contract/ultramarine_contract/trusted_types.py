"""Types that a .skops file may build: none of them runs code of the file's maker, whatever its attributes are.

A .skops file is a zip whose schema.json says, by a loader for each object, how to build it: `ObjectNode` makes an empty
object and sets its attributes, `FunctionNode` refers to a function, `ConstructorFromReduceNode` calls a class with
arguments of the file. One name is harmless to one loader and a weapon to another, so names are trusted by loader.
The values of attributes are another matter: the server checks them after loading (native_checks.py).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

SCHEMA = "schema.json"


def untrusted(names: Iterable[str]) -> list[str]:
    """Return those of these types and functions that no loader builds for a file of an unknown maker, sorted."""
    return sorted({name for name in names if name not in _EVERY_NAME})


SCRIPT = "__main__"  # the module of whatever Python has started: in a server, the server
SCRIPT_REMEDY = (
    "no server has the code of a training script (__main__): import it from a module there, and make the output a "
    "python model, with model.py and that module (docs/formats.md, Python)"
)
_CATEGORIES = "sklearn.utils.validation.check_array"
_CATEGORIES_REMEDY = (
    "leave categorical_features of a HistGradientBoosting out, and encode the columns in a pipeline with it, as by an "
    "OrdinalEncoder"
)
_VERSION_REMEDY = (
    "the server's scikit-learn has no such type, so another version has written the file: train the model again with "
    "the version of the platform's images"
)


def remedy_for(names: Iterable[str], permission: str) -> str:
    """Return a remedy for the refusal of these types; `permission` says how to allow them, if that would help."""
    names = list(names)
    refused = [name.partition(" by ")[0] for name in names]
    if any(name.startswith(f"{SCRIPT}.") for name in refused):
        return SCRIPT_REMEDY
    if _CATEGORIES in refused:
        return f"{_CATEGORIES_REMEDY}, or {permission}"
    if names and names == refused and all(name.startswith("sklearn.") for name in names):
        return f"{_VERSION_REMEDY}, or {permission}"
    return permission


def untrusted_in(file: Path | BinaryIO) -> list[str]:
    """Return what a .skops file holds that is not trusted, sorted. Builds nothing. Raises ValueError or BadZipFile.

    A name alone is an unknown type. A name with a loader is a type that is known, and is not to be built in this way.
    """
    with zipfile.ZipFile(file) as archive:
        try:
            schema = json.loads(archive.read(SCHEMA))
        except KeyError as error:
            raise ValueError(f"it has no {SCHEMA}") from error
    return sorted({problem for node in _nodes(schema) if (problem := _problem(node))})


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every description of an object, wherever it stands: more than skops would build, never less."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if "__loader__" in value or "__class__" in value:
                yield value
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _problem(node: dict[str, Any]) -> str:
    """Return what is wrong with one object, in the words that its owner reads; nothing if it is trusted."""
    loader, name = str(node.get("__loader__")), f"{node.get('__module__')}.{node.get('__class__')}"
    if name not in _TRUSTED.get(loader, ()):
        return name if name not in _EVERY_NAME else f"{name} by {loader}"
    if loader == "FunctionNode" and "content" in node:  # skops 0.7 and earlier wrote the name elsewhere
        return f"{name} by {loader} of an old skops"
    keys = node.get("content") if loader == "DictNode" else None
    if loader == "JsonNode" and "{" in (text := str(node.get("content"))):
        keys = json.loads(text, object_pairs_hook=_Pairs)
    return next((f"an attribute {key}" for key in _keys(keys) if key.startswith("__") and key.endswith("__")), "")


class _Pairs(list[tuple[str, Any]]):
    """The content of JSON's braces, a key that comes twice included."""


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):  # a DictNode's, whose values are nodes that are looked at by themselves
        yield from value
    elif isinstance(value, _Pairs):
        for key, inner in value:
            yield key
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def _named(groups: dict[str, str]) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for module, names in groups.items() for name in names.split())


# Attributes are set in an empty object: by BaseEstimator.__setstate__, which compares versions and updates __dict__,
# or by object's own way, which is the same. No code of these classes runs until a method is called. Their methods then
# compute with numpy and scipy, which check the shapes of their arguments. native_checks.py checks before them those
# that hand attributes to compiled code.
#
# Left out because of what they would do with attributes of an attacker's choice:
# - scipy.stats distributions (of a RandomizedSearchCV): __setstate__ runs a text of the file through exec.
# - BisectingKMeans: holds a private compiled function that trusts the sizes of its arguments.
# - PatchExtractor, MultiLabelBinarizer: take images and sets, never a table, and lay out memory as the file says.
# - DistanceMetric with a matrix or a Python function, joblib.Memory (unpickles files), anything of another library.
_ESTIMATORS = _named(
    {
        "sklearn.calibration": "CalibratedClassifierCV _CalibratedClassifier _SigmoidCalibration _TemperatureScaling",
        "sklearn.cluster._affinity_propagation": "AffinityPropagation",
        "sklearn.cluster._agglomerative": "FeatureAgglomeration",
        "sklearn.cluster._kmeans": "KMeans MiniBatchKMeans",
        "sklearn.cluster._mean_shift": "MeanShift",
        "sklearn.compose._column_transformer": "ColumnTransformer make_column_selector",
        "sklearn.compose._target": "TransformedTargetRegressor",
        "sklearn.covariance._elliptic_envelope": "EllipticEnvelope",
        "sklearn.cross_decomposition._pls": "CCA PLSCanonical PLSRegression PLSSVD",
        "sklearn.decomposition._dict_learning": "DictionaryLearning MiniBatchDictionaryLearning SparseCoder",
        "sklearn.decomposition._factor_analysis": "FactorAnalysis",
        "sklearn.decomposition._fastica": "FastICA",
        "sklearn.decomposition._incremental_pca": "IncrementalPCA",
        "sklearn.decomposition._kernel_pca": "KernelPCA",
        "sklearn.decomposition._lda": "LatentDirichletAllocation",
        "sklearn.decomposition._nmf": "MiniBatchNMF NMF",
        "sklearn.decomposition._pca": "PCA",
        "sklearn.decomposition._sparse_pca": "MiniBatchSparsePCA SparsePCA",
        "sklearn.decomposition._truncated_svd": "TruncatedSVD",
        "sklearn.discriminant_analysis": "LinearDiscriminantAnalysis QuadraticDiscriminantAnalysis",
        "sklearn.dummy": "DummyClassifier DummyRegressor",
        "sklearn.ensemble._bagging": "BaggingClassifier BaggingRegressor",
        "sklearn.ensemble._forest": "ExtraTreesClassifier ExtraTreesRegressor RandomForestClassifier "
        "RandomForestRegressor RandomTreesEmbedding",
        "sklearn.ensemble._gb": "GradientBoostingClassifier GradientBoostingRegressor",
        "sklearn.ensemble._hist_gradient_boosting.binning": "_BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.gradient_boosting": "HistGradientBoostingClassifier "
        "HistGradientBoostingRegressor",
        "sklearn.ensemble._hist_gradient_boosting.predictor": "TreePredictor",
        "sklearn.ensemble._iforest": "IsolationForest",
        "sklearn.ensemble._stacking": "StackingClassifier StackingRegressor",
        "sklearn.ensemble._voting": "VotingClassifier VotingRegressor",
        "sklearn.ensemble._weight_boosting": "AdaBoostClassifier AdaBoostRegressor",
        "sklearn.feature_extraction._dict_vectorizer": "DictVectorizer",
        "sklearn.feature_extraction._hash": "FeatureHasher",
        "sklearn.feature_extraction.text": "CountVectorizer HashingVectorizer TfidfTransformer TfidfVectorizer",
        "sklearn.feature_selection._from_model": "SelectFromModel",
        "sklearn.feature_selection._rfe": "RFE RFECV",
        "sklearn.feature_selection._sequential": "SequentialFeatureSelector",
        "sklearn.feature_selection._univariate_selection": "GenericUnivariateSelect SelectFdr SelectFpr SelectFwe "
        "SelectKBest SelectPercentile",
        "sklearn.feature_selection._variance_threshold": "VarianceThreshold",
        "sklearn.frozen._frozen": "FrozenEstimator",
        "sklearn.gaussian_process._gpc": "GaussianProcessClassifier _BinaryGaussianProcessClassifierLaplace",
        "sklearn.gaussian_process._gpr": "GaussianProcessRegressor",
        "sklearn.impute._base": "MissingIndicator SimpleImputer",
        "sklearn.impute._iterative": "IterativeImputer",
        "sklearn.impute._knn": "KNNImputer",
        "sklearn.isotonic": "IsotonicRegression",
        "sklearn.kernel_approximation": "AdditiveChi2Sampler Nystroem PolynomialCountSketch RBFSampler "
        "SkewedChi2Sampler",
        "sklearn.kernel_ridge": "KernelRidge",
        "sklearn.linear_model._base": "LinearRegression",
        "sklearn.linear_model._bayes": "ARDRegression BayesianRidge",
        "sklearn.linear_model._coordinate_descent": "ElasticNet ElasticNetCV Lasso LassoCV MultiTaskElasticNet "
        "MultiTaskElasticNetCV MultiTaskLasso MultiTaskLassoCV",
        "sklearn.linear_model._glm.glm": "GammaRegressor PoissonRegressor TweedieRegressor",
        "sklearn.linear_model._huber": "HuberRegressor",
        "sklearn.linear_model._least_angle": "Lars LarsCV LassoLars LassoLarsCV LassoLarsIC",
        "sklearn.linear_model._logistic": "LogisticRegression LogisticRegressionCV",
        "sklearn.linear_model._omp": "OrthogonalMatchingPursuit OrthogonalMatchingPursuitCV",
        "sklearn.linear_model._passive_aggressive": "PassiveAggressiveClassifier PassiveAggressiveRegressor",
        "sklearn.linear_model._perceptron": "Perceptron",
        "sklearn.linear_model._quantile": "QuantileRegressor",
        "sklearn.linear_model._ransac": "RANSACRegressor",
        "sklearn.linear_model._ridge": "Ridge RidgeCV RidgeClassifier RidgeClassifierCV",
        "sklearn.linear_model._stochastic_gradient": "SGDClassifier SGDOneClassSVM SGDRegressor",
        "sklearn.linear_model._theil_sen": "TheilSenRegressor",
        "sklearn.manifold._isomap": "Isomap",
        "sklearn.manifold._locally_linear": "LocallyLinearEmbedding",
        "sklearn.mixture._bayesian_mixture": "BayesianGaussianMixture",
        "sklearn.mixture._gaussian_mixture": "GaussianMixture",
        "sklearn.model_selection._classification_threshold": "FixedThresholdClassifier TunedThresholdClassifierCV",
        "sklearn.model_selection._search": "GridSearchCV RandomizedSearchCV",
        "sklearn.model_selection._search_successive_halving": "HalvingGridSearchCV HalvingRandomSearchCV",
        "sklearn.multiclass": "OneVsOneClassifier OneVsRestClassifier OutputCodeClassifier _ConstantPredictor",
        "sklearn.multioutput": "ClassifierChain MultiOutputClassifier MultiOutputRegressor RegressorChain",
        "sklearn.naive_bayes": "BernoulliNB CategoricalNB ComplementNB GaussianNB MultinomialNB",
        "sklearn.neighbors._classification": "KNeighborsClassifier RadiusNeighborsClassifier",
        "sklearn.neighbors._graph": "KNeighborsTransformer RadiusNeighborsTransformer",
        "sklearn.neighbors._lof": "LocalOutlierFactor",
        "sklearn.neighbors._nca": "NeighborhoodComponentsAnalysis",
        "sklearn.neighbors._nearest_centroid": "NearestCentroid",
        "sklearn.neighbors._regression": "KNeighborsRegressor RadiusNeighborsRegressor",
        "sklearn.neighbors._unsupervised": "NearestNeighbors",
        "sklearn.neural_network._multilayer_perceptron": "MLPClassifier MLPRegressor",
        "sklearn.neural_network._rbm": "BernoulliRBM",
        "sklearn.neural_network._stochastic_optimizers": "AdamOptimizer SGDOptimizer",
        "sklearn.pipeline": "FeatureUnion Pipeline",
        "sklearn.preprocessing._data": "Binarizer KernelCenterer MaxAbsScaler MinMaxScaler Normalizer PowerTransformer "
        "QuantileTransformer RobustScaler StandardScaler",
        "sklearn.preprocessing._discretization": "KBinsDiscretizer",
        "sklearn.preprocessing._encoders": "OneHotEncoder OrdinalEncoder",
        "sklearn.preprocessing._function_transformer": "FunctionTransformer",
        "sklearn.preprocessing._label": "LabelBinarizer LabelEncoder",
        "sklearn.preprocessing._polynomial": "PolynomialFeatures SplineTransformer",
        "sklearn.preprocessing._target_encoder": "TargetEncoder",
        "sklearn.random_projection": "GaussianRandomProjection SparseRandomProjection",
        "sklearn.semi_supervised._label_propagation": "LabelPropagation LabelSpreading",
        "sklearn.semi_supervised._self_training": "SelfTrainingClassifier",
        "sklearn.svm._classes": "LinearSVC LinearSVR NuSVC NuSVR OneClassSVM SVC SVR",
        "sklearn.tree._classes": "DecisionTreeClassifier DecisionTreeRegressor ExtraTreeClassifier ExtraTreeRegressor",
    }
)

# What estimators hold: plain Python, which sets attributes as above. Kernels and scorers can be called, and compute.
# A scorer calls the method that it names: native_checks.py leaves it only those that predict.
_PARTS = _named(
    {
        "sklearn._loss.link": "HalfLogitLink IdentityLink Interval LogLink LogitLink MultinomialLogit",
        "sklearn._loss.loss": "AbsoluteError ExponentialLoss HalfBinomialLoss HalfGammaLoss HalfMultinomialLoss "
        "HalfPoissonLoss HalfSquaredError HalfTweedieLoss HalfTweedieLossIdentity HuberLoss PinballLoss",
        "sklearn.gaussian_process.kernels": "CompoundKernel ConstantKernel DotProduct ExpSineSquared Exponentiation "
        "Matern PairwiseKernel Product RBF RationalQuadratic Sum WhiteKernel",
        "sklearn.metrics._scorer": "_CurveScorer _MultimetricScorer _PassthroughScorer _Scorer",
        "sklearn.model_selection._split": "GroupKFold GroupShuffleSplit KFold LeaveOneGroupOut LeaveOneOut "
        "LeavePGroupsOut LeavePOut PredefinedSplit RepeatedKFold RepeatedStratifiedKFold ShuffleSplit "
        "StratifiedGroupKFold StratifiedKFold StratifiedShuffleSplit TimeSeriesSplit",
        "sklearn.utils._metadata_requests": "MetadataRequest MethodMetadataRequest",
    }
)

# Compiled classes whose __setstate__ takes a tuple, keeps views of its arrays, and follows no index of the file while
# it does. native_checks.py compares every index and size with the arrays before the first prediction. Distances: those
# that keep nothing but numbers.
STATE_TUPLES = _named(
    {
        "sklearn.metrics._dist_metrics": " ".join(
            f"{name}Distance{bits}"
            for name in ("BrayCurtis", "Canberra", "Chebyshev", "Euclidean", "Hamming", "Manhattan", "Minkowski")
            for bits in (32, 64)
        ),
        "sklearn.neighbors._ball_tree": "BallTree BallTree32",
        "sklearn.neighbors._kd_tree": "KDTree KDTree32",
    }
)
_NATIVE = STATE_TUPLES | {"scipy.interpolate._bsplines.BSpline"}

# The boosters hand bytes of the file to the native reader of .ubj, .json and LightGBM's .txt files, which need no
# allowCodeExecution either. The wrappers set attributes, as estimators of scikit-learn do.
_BOOSTERS = _named(
    {
        "lightgbm.basic": "Booster",
        "lightgbm.sklearn": "LGBMClassifier LGBMRanker LGBMRegressor",
        "xgboost.core": "Booster",
        "xgboost.sklearn": "XGBClassifier XGBRFClassifier XGBRFRegressor XGBRanker XGBRegressor",
    }
)

# Functions, which an attacker can have called with anything: as FunctionTransformer.func, or as an analyzer. These
# compute with what they are given; they open no file, import nothing, and check shapes.
_FUNCTIONS = _named(
    {
        "numpy": "abs absolute add arccos arccosh arcsin arcsinh arctan arctanh cbrt ceil clip cos cosh deg2rad "
        "degrees divide exp exp2 expm1 fabs floor isfinite isinf isnan log log10 log1p log2 maximum mean median "
        "minimum multiply nan_to_num negative power rad2deg radians reciprocal rint round sign sin sinh sqrt square "
        "subtract sum tan tanh trunc",
        "scipy._lib.array_api_compat.numpy._aliases": "asarray",
        "scipy.special._ufuncs": "boxcox boxcox1p expit inv_boxcox logit",
        "scipy.special._special_ufuncs": "expit logit log_expit",
        "sklearn.feature_selection._mutual_info": "mutual_info_classif mutual_info_regression",
        "sklearn.feature_selection._univariate_selection": "chi2 f_classif f_regression r_regression",
        "sklearn.metrics._classification": "accuracy_score balanced_accuracy_score brier_score_loss cohen_kappa_score "
        "d2_brier_score d2_log_loss_score f1_score fbeta_score jaccard_score log_loss matthews_corrcoef "
        "precision_score recall_score zero_one_loss",
        "sklearn.metrics._ranking": "average_precision_score ndcg_score roc_auc_score top_k_accuracy_score",
        "sklearn.metrics._regression": "d2_absolute_error_score explained_variance_score max_error mean_absolute_error "
        "mean_absolute_percentage_error mean_gamma_deviance mean_pinball_loss mean_poisson_deviance "
        "mean_squared_error mean_squared_log_error median_absolute_error r2_score root_mean_squared_error "
        "root_mean_squared_log_error",
        "sklearn.metrics.pairwise": "chi2_kernel cosine_similarity laplacian_kernel linear_kernel polynomial_kernel "
        "rbf_kernel sigmoid_kernel",
    }
)

_NUMBERS = _named(
    {
        "numpy": "bool bool_ bytes_ float16 float32 float64 int16 int32 int64 int8 longdouble longlong str_ uint16 "
        "uint32 uint64 uint8 ulonglong"
    }
)
_PLAIN = _named({"builtins": "bool bytes float int list object set str tuple dict"})

# By loader of skops. Missing are those that call what a file names, with arguments of the file or bound to an object of
# it: ConstructorFromReduceNode, MethodNode, OperatorFuncNode; and CachedNode, which skops no longer writes.
_TRUSTED: dict[str, frozenset[str]] = {
    "ObjectNode": _ESTIMATORS | _PARTS | _NATIVE | _BOOSTERS,
    # Tree(n_features, n_classes, n_outputs), whose arguments the server checks before the call, then __setstate__.
    "TreeNode": frozenset({"sklearn.tree._tree.Tree"}),
    # Losses(float, ...): two numbers at most.
    "LossNode": _named(
        {
            "sklearn._loss._loss": "CyAbsoluteError CyExponentialLoss CyHalfBinomialLoss CyHalfGammaLoss "
            "CyHalfMultinomialLoss CyHalfPoissonLoss CyHalfSquaredError CyHalfTweedieLoss CyHalfTweedieLossIdentity "
            "CyHuberLoss CyPinballLoss",
            "sklearn.linear_model._sgd_fast": "EpsilonInsensitive Hinge ModifiedHuber SquaredEpsilonInsensitive "
            "SquaredHinge",
        }
    ),
    "FunctionNode": _FUNCTIONS,
    # A call of one of the functions above, or of an object, with more arguments.
    "PartialNode": frozenset({"functools.partial"}),
    # Classes as values: called without harm by whatever holds them (a dtype, a dictionary's keys).
    "TypeNode": _PLAIN | _NUMBERS | {"collections.OrderedDict"},
    "DictNode": frozenset({"builtins.dict", "collections.OrderedDict", "sklearn.utils._bunch.Bunch"}),
    "DefaultDictNode": frozenset({"collections.defaultdict"}),
    "ListNode": frozenset({"builtins.list"}),
    "SetNode": frozenset({"builtins.set"}),
    "TupleNode": frozenset({"builtins.tuple", "sklearn.impute._iterative._ImputerTriplet"}),
    "SliceNode": frozenset({"builtins.slice"}),
    "BytesNode": frozenset({"builtins.bytes"}),
    "BytearrayNode": frozenset({"builtins.bytearray"}),
    "JsonNode": frozenset({"builtins.str"}),
    # numpy.load with allow_pickle=False; arrays of objects are lists of nodes.
    "NdArrayNode": _NUMBERS | {"numpy.ndarray", "numpy.datetime64", "numpy.timedelta64"},
    "MaskedArrayNode": frozenset({"numpy.ma.MaskedArray"}),
    "DTypeNode": frozenset({"numpy.dtype"}),
    # set_state of numpy, which takes any position in its buffer: native_checks.py does not. skops itself sees to it
    # that the bit generator is one.
    "RandomStateNode": frozenset({"numpy.random.mtrand.RandomState"}),
    "RandomGeneratorNode": frozenset({"numpy.random._generator.Generator"}),
    # scipy.sparse.load_npz without pickles; native_checks.py checks the indices.
    "SparseMatrixNode": _named(
        {f"scipy.sparse._{kind}": f"{kind}_matrix {kind}_array" for kind in ("csr", "csc", "coo")}
    ),
}
_EVERY_NAME = frozenset().union(*_TRUSTED.values())
TRUSTED_NAMES = tuple(sorted(_EVERY_NAME))
