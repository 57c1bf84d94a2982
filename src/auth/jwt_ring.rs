//! The signatures of JWT by ring: the library reads and checks tokens, and leaves the cryptography to us, so that
//! the process has one provider of it.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes ring the library's provider; does nothing the second time.
pub(super) fn install() {
    PROVIDER.install_default().ok();
}

/// Tokens are made by others.
fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

enum How {
    Plain(&'static dyn VerificationAlgorithm),
    Rsa(&'static RsaParameters),
}

/// `None` for shared secrets: a public key must never be taken for one.
fn how(algorithm: Algorithm) -> Option<How> {
    Some(match algorithm {
        Algorithm::ES256 => How::Plain(&signature::ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => How::Plain(&signature::ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => How::Plain(&signature::ED25519),
        Algorithm::RS256 => How::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => How::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => How::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => How::Rsa(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => How::Rsa(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => How::Rsa(&signature::RSA_PSS_2048_8192_SHA512),
        _ => return None,
    })
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let how = how(*algorithm).filter(|_| key.family() == algorithm.family());
    let how = how.ok_or(ErrorKind::InvalidAlgorithm)?;
    Ok(Box::new(Verifier { algorithm: *algorithm, how, key: key.clone() }))
}

struct Verifier {
    algorithm: Algorithm,
    how: How,
    key: DecodingKey,
}

impl JwtVerifier for Verifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl jsonwebtoken::signature::Verifier<Vec<u8>> for Verifier {
    fn verify(
        &self,
        message: &[u8],
        signed: &Vec<u8>,
    ) -> std::result::Result<(), jsonwebtoken::signature::Error> {
        let verified = match (&self.how, self.key.kind()) {
            (How::Plain(algorithm), DecodingKeyKind::SecretOrDer(key)) => {
                UnparsedPublicKey::new(*algorithm, key).verify(message, signed)
            }
            (How::Rsa(parameters), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signed)
            }
            _ => return Err(jsonwebtoken::signature::Error::new()),
        };
        verified.map_err(|_| jsonwebtoken::signature::Error::new())
    }
}
