// The engine has the events of encryption elsewhere now.
export { CryptoEvent } from "engine/src/crypto-api/CryptoEvent";
