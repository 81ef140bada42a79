// Login by OpenID Connect, which the engine replaced by OAuth; nothing here logs in that way.
export { OAuth2Error as OidcError } from "engine/src/oauth/error";

const gone = (name: string) => (): never => {
    throw new Error(`${name}: the engine has it no more`);
};
export const completeAuthorizationCodeGrant = gone("completeAuthorizationCodeGrant");
export const generateOidcAuthorizationUrl = gone("generateOidcAuthorizationUrl");
