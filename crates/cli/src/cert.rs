//! Certificates.

use std::path::Path;

use daemon::certs::{Request, make_ca, make_node};

use crate::args::{Cert, CertAction};
use crate::output::{Failure, Outcome, print, talk};

pub(crate) fn cert(args: &Cert) -> Outcome {
    match &args.action {
        CertAction::Ca { out, name, days, force } => {
            let made = make_ca(&Request { name, out, days: *days, force: *force }).map_err(said)?;
            talk(&format!(
                "made {} and {}: keep the key safe, it makes nodes",
                made.cert.display(),
                made.key.display()
            ));
            talk(&format!("next, for each node: starling cert node --ca {} --name NAME --out DIR", out.display()));
            Ok(())
        }
        CertAction::Node { ca, name, out, host, days, force } => {
            let made = make_node(&Request { name, out, days: *days, force: *force }, ca, host).map_err(said)?;
            talk(&format!(
                "made {} and {}; copy them to the node with {}",
                made.cert.display(),
                made.key.display(),
                made.ca.display()
            ));
            talk("in its configuration file:");
            let quoted = |path: &Path| format!("{:?}", path.display().to_string());
            print(&format!(
                "[tls]\nca = {}\ncert = {}\nkey = {}\n",
                quoted(&made.ca),
                quoted(&made.cert),
                quoted(&made.key)
            ))
        }
    }
}

fn said(error: daemon::certs::CertError) -> Failure {
    Failure::said(error.to_string())
}
