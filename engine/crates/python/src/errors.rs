//! Every error of the engine as one Python exception. A new variant does not compile until it is mapped here.

use culvert_core::Rejection;
use culvert_l4::EngineError as Inner;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

pyo3::create_exception!(meshengine._native, EngineError, PyException);
pyo3::create_exception!(meshengine._native, ConfigRejected, EngineError);
pyo3::create_exception!(meshengine._native, KernelUnsupported, EngineError);
pyo3::create_exception!(meshengine._native, EngineBusy, EngineError);
pyo3::create_exception!(meshengine._native, EngineClosed, EngineError);

/// One refused resource, as an item of `ConfigRejected.rejected`.
#[pyclass(frozen, get_all, module = "meshengine._native")]
struct RejectedResource {
    name: String,
    field: String,
    reason: String,
}

impl From<Rejection> for RejectedResource {
    fn from(one: Rejection) -> Self {
        Self { name: one.name, field: one.field, reason: one.reason }
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add_class::<RejectedResource>()?;
    module.add("EngineError", py.get_type::<EngineError>())?;
    module.add("ConfigRejected", py.get_type::<ConfigRejected>())?;
    module.add("KernelUnsupported", py.get_type::<KernelUnsupported>())?;
    module.add("EngineBusy", py.get_type::<EngineBusy>())?;
    module.add("EngineClosed", py.get_type::<EngineClosed>())
}

pub(crate) fn to_python(error: Inner) -> PyErr {
    let text = error.to_string();
    match error {
        Inner::ConfigRejected { type_url, rejected } => config_rejected(text, type_url, rejected),
        Inner::KernelUnsupported { .. } => KernelUnsupported::new_err(text),
        Inner::Busy(_) => EngineBusy::new_err(text),
        Inner::Closed => EngineClosed::new_err(text),
    }
}

fn config_rejected(text: String, type_url: String, rejected: Vec<Rejection>) -> PyErr {
    let rejected: Vec<_> = rejected.into_iter().map(RejectedResource::from).collect();
    Python::attach(|py| {
        let error = ConfigRejected::new_err(text);
        let value = error.value(py);
        match value.setattr("type_url", type_url).and_then(|()| value.setattr("rejected", rejected)) {
            Ok(()) => error,
            Err(failure) => failure,
        }
    })
}
