// What the UI imports from the engine and the engine has elsewhere, or not at all any more.
export * from "engine/src/matrix";
export { CryptoEvent } from "engine/src/crypto-api/CryptoEvent";

const gone = (name: string) => (): never => {
    throw new Error(`${name}: the engine has it no more`);
};
export const discoverAndValidateOIDCIssuerWellKnown = gone("discoverAndValidateOIDCIssuerWellKnown");
export const registerOidcClient = gone("registerOidcClient");
export const decodeIdToken = gone("decodeIdToken");
export const DEVICE_CODE_SCOPE = "urn:ietf:params:oauth:grant-type:device_code";
export class OidcTokenRefresher {
    public constructor() {
        gone("OidcTokenRefresher")();
    }
}

/** A name that has no second form. */
const only = (name: string) => ({
    name,
    altName: name,
    stable: name,
    unstable: name,
    matches: (other: string) => other === name,
    findIn: (of: any) => of?.[name],
});
export const DELEGATED_OIDC_COMPATIBILITY = only("org.matrix.msc3824.delegated_oidc_compatibility");
export const UNSTABLE_MSC3852_LAST_SEEN_UA = only("org.matrix.msc3852.last_seen_user_agent");
