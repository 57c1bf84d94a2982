//! Every method with every role, in the caller's own organization and in another one, by every way in.

use serde_json::json;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::organization_admin_client::OrganizationAdminClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::callers::{described, may, was_denied};
use crate::harness::{
    Authority, Server, TlsFolder, TokenFile, call_any, is_store_shared, naming, secure_endpoint, swap,
    with_token,
};
use crate::jwt::SigningKey;

const OWN: &str = "org_own";
const OTHER: &str = "org_other";
const ROLES: [&str; 3] = ["emitter", "viewer", "admin"];

/// A server with all ways in at once, and those who come in.
struct House {
    server: Server,
    authority: Authority,
    key: SigningKey,
    tokens: TokenFile,
    _tls: TlsFolder,
}

/// A caller: what it sends, over which connection.
struct Way {
    name: String,
    channel: Channel,
    token: Option<String>,
}

impl Way {
    async fn call(&self, method: &str, organization_id: &str) -> Result<(), Status> {
        let message = naming(organization_id);
        let request = match &self.token {
            Some(token) => with_token(token, message),
            None => Request::new(message),
        };
        call_any(&self.channel, method, request).await
    }
}

impl House {
    async fn open() -> Self {
        let (authority, key) = (Authority::new(), SigningKey::new("one"));
        let tls = TlsFolder::new(&authority.sign(&["localhost"]), &authority.pem);
        swap(&tls.path("keys.json"), &json!({ "keys": [key.public()] }).to_string());
        let tokens = TokenFile::new();
        let rules = |rule: &dyn Fn(&str) -> [String; 2]| {
            let rules: Vec<String> = ROLES.iter().flat_map(|role| rule(role)).collect();
            format!("{rules:?}")
        };
        let certificates = rules(&|role| {
            [format!("dns:{role}-own.example={role}@{OWN}"), format!("dns:{role}-all.example={role}@*")]
        });
        let jwt = rules(&|role| [format!("{role}-own={role}"), format!("{role}-all={role}@*")]);
        let jwt = jwt.replace(']', ", \"root=operator\"]");
        let certificates = certificates.replace(']', ", \"uri:spiffe://example.com/ops=operator\"]");
        let files = ["certificate.pem", "key.pem", "clients.pem", "keys.json"].map(|name| tls.setting(name));
        let server = Server::with(&[
            ("listen.tls_certificate", files[0].as_str()),
            ("listen.tls_key", files[1].as_str()),
            ("listen.client_ca", files[2].as_str()),
            ("listen.client_certificates", r#""optional""#),
            ("auth.certificates", certificates.as_str()),
            ("auth.tokens_file", tokens.setting().as_str()),
            ("auth.jwt_issuer", r#""https://issuer.example""#),
            ("auth.jwt_audiences", r#"["signalpost"]"#),
            ("auth.jwt_roles_claim", r#""groups""#),
            ("auth.jwt_organizations_claim", r#""orgs""#),
            ("auth.jwt_roles", jwt.as_str()),
            ("auth.jwks_file", files[3].as_str()),
            ("auth.reload", r#""50ms""#),
        ])
        .await;
        let house = Self { server, authority, key, tokens, _tls: tls };
        let operator = house.by_jwt("root").await;
        for organization_id in [OWN, OTHER] {
            let request =
                v1::CreateOrganizationRequest { organization_id: organization_id.into(), organization: None };
            let mut client = OrganizationAdminClient::new(operator.channel.clone());
            client.create_organization(with_token(operator.token.as_ref().unwrap(), request)).await.unwrap();
        }
        house
    }

    async fn channel(&self, names: Option<&str>) -> Channel {
        let pair = names.map(|name| self.authority.sign(&[name]));
        let endpoint = secure_endpoint(self.server.grpc_address(), &self.authority.pem, pair.as_ref());
        endpoint.connect().await.unwrap()
    }

    async fn by_jwt(&self, group: &str) -> Way {
        let (name, token) = (format!("JWT {group}"), Some(self.key.token(group)));
        Way { name, channel: self.channel(None).await, token }
    }

    async fn by_certificate(&self, subject: &str) -> Way {
        Way {
            name: format!("certificate {subject}"),
            channel: self.channel(Some(subject)).await,
            token: None,
        }
    }

    async fn by_token(&mut self, grants: &str) -> Way {
        let token = self.tokens.add("caller", grants);
        let way =
            Way { name: format!("token {grants}"), channel: self.channel(None).await, token: Some(token) };
        crate::harness::eventually("the server knows a new token", async || {
            let answer = way.call("signalpost.v1.EventIngest/Emit", OWN).await.unwrap_err();
            (answer.code() != Code::Unauthenticated).then_some(())
        })
        .await;
        way
    }

    /// The same rights by each way in.
    async fn all(&mut self, role: &str, everywhere: bool) -> [Way; 3] {
        let (place, word) = if everywhere { ("*", "all") } else { (OWN, "own") };
        [
            self.by_token(&format!("{role}@{place}")).await,
            self.by_jwt(&format!("{role}-{word}")).await,
            self.by_certificate(&format!("{role}-{word}.example")).await,
        ]
    }
}

/// Whether an allowed call got as far as the use case, which answers what is meant by a message with nothing but an
/// organization in it. Whatever else there is would be a fault, or a method that is not served.
fn was_worked_on(method: &str, answer: &Result<(), Status>) -> bool {
    let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
    let name = method.split_once('/').unwrap().1;
    match code {
        Code::Ok | Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition => true,
        Code::AlreadyExists => name == "CreateOrganization",
        // A database is backed up with its own means.
        Code::Unimplemented => name == "BackUpStore" && is_store_shared(),
        _ => false,
    }
}

#[tokio::test]
async fn every_method_answers_every_role_as_documented_at_home_and_elsewhere() {
    let mut house = House::open().await;
    let methods = described();
    assert!(methods.len() >= 38);
    let mut asked = 0;
    for role in ROLES {
        for everywhere in [false, true] {
            for way in house.all(role, everywhere).await {
                for method in &methods {
                    for organization in [OWN, OTHER] {
                        let expected = may(role, method) && (everywhere || organization == OWN);
                        let answer = way.call(method, organization).await;
                        let told = format!("{}: {method} {organization}: {answer:?}", way.name);
                        let code = answer.as_ref().err().map(Status::code);
                        assert_ne!(code, Some(Code::Unauthenticated), "{told}");
                        assert_eq!(was_denied(&answer), !expected, "{told}");
                        assert!(!expected || was_worked_on(method, &answer), "{told}");
                        asked += 1;
                    }
                }
            }
        }
    }
    assert_eq!(asked, methods.len() * 36, "three roles, two places, three ways in, two organizations");
    let operators = [
        house.by_token("operator").await,
        house.by_jwt("root").await,
        house.by_certificate("spiffe://example.com/ops").await,
    ];
    let mut asked = 0;
    for way in operators {
        // `DeleteOrganization` asks for the id a second time, which nobody gives here, so all organizations stay.
        for (method, organization) in methods.iter().flat_map(|method| [(method, OWN), (method, OTHER)]) {
            let answer = way.call(method, organization).await;
            let told = format!("{}: {method} {organization}: {answer:?}", way.name);
            assert_ne!(answer.as_ref().err().map(Status::code), Some(Code::Unauthenticated), "{told}");
            assert!(was_worked_on(method, &answer), "{told}");
            asked += 1;
        }
    }
    assert_eq!(asked, methods.len() * 6, "one role everywhere, three ways in, two organizations");
}
