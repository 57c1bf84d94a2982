//! When certificates and revocation lists end.

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_cert::Certificate;
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode;
use x509_cert::time::Time;

use crate::domain::time::Timestamp;

/// When the first of these certificates ends (`notAfter`); those that can't be read are passed over, for whoever
/// uses them says so.
#[must_use]
pub fn of_certificates(certificates: &[CertificateDer<'_>]) -> Option<Timestamp> {
    let ends = certificates.iter().filter_map(|one| Certificate::from_der(one).ok());
    ends.map(|one| timestamp(one.tbs_certificate.validity.not_after)).min()
}

/// When the first of these lists is past its time (`nextUpdate`). A list need not say so.
#[must_use]
pub fn of_revocation_lists(lists: &[CertificateRevocationListDer<'_>]) -> Option<Timestamp> {
    let ends = lists.iter().filter_map(|one| CertificateList::from_der(one).ok()?.tbs_cert_list.next_update);
    ends.map(timestamp).min()
}

fn timestamp(time: Time) -> Timestamp {
    Timestamp::from_millis(i64::try_from(time.to_unix_duration().as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn until(year: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn of_several_certificates_the_first_that_ends_counts() {
        let seconds = |certificates: &[_]| of_certificates(certificates).map(Timestamp::as_seconds);
        // Beyond 2049 the time has another form in a certificate.
        assert_eq!(seconds(&[until(2100)]), Some(4_102_444_800));
        assert_eq!(seconds(&[until(2100), until(2030), until(2040)]), Some(1_893_456_000));
        assert_eq!(seconds(&[]), None);
        assert_eq!(seconds(&[b"no certificate".to_vec().into()]), None);
    }
}
