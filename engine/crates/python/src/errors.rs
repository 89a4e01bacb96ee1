//! Every error of the engine as one Python exception. A new variant does not compile until it is mapped here.

use culvert_l4::EngineError as Inner;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

pyo3::create_exception!(meshengine._native, EngineError, PyException);
pyo3::create_exception!(meshengine._native, ConfigRejected, EngineError);
pyo3::create_exception!(meshengine._native, BindFailed, EngineError);
pyo3::create_exception!(meshengine._native, KernelUnsupported, EngineError);
pyo3::create_exception!(meshengine._native, EngineBusy, EngineError);
pyo3::create_exception!(meshengine._native, EngineClosed, EngineError);
pyo3::create_exception!(meshengine._native, EngineFailed, EngineError);

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("EngineError", py.get_type::<EngineError>())?;
    module.add("ConfigRejected", py.get_type::<ConfigRejected>())?;
    module.add("BindFailed", py.get_type::<BindFailed>())?;
    module.add("KernelUnsupported", py.get_type::<KernelUnsupported>())?;
    module.add("EngineBusy", py.get_type::<EngineBusy>())?;
    module.add("EngineClosed", py.get_type::<EngineClosed>())?;
    module.add("EngineFailed", py.get_type::<EngineFailed>())
}

pub(crate) fn to_python(error: Inner) -> PyErr {
    let text = error.to_string();
    match error {
        Inner::ConfigRejected { type_url, rejected } => {
            let rejected: Vec<_> = rejected.into_iter().map(|one| (one.name, one.field, one.reason)).collect();
            ConfigRejected::new_err((text, type_url, rejected))
        }
        Inner::BindFailed { .. } => BindFailed::new_err(text),
        Inner::KernelUnsupported { .. } => KernelUnsupported::new_err(text),
        Inner::Busy => EngineBusy::new_err(text),
        Inner::Closed => EngineClosed::new_err(text),
        Inner::Failed(_) => EngineFailed::new_err(text),
    }
}
