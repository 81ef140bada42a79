// The UI is two years older than the engine under it. What it calls on MatrixClient and has moved to
// client.getCrypto() since is put where it was.
import { MatrixClient } from "engine/src/client";
import { MatrixRTCSession } from "engine/src/matrixrtc/MatrixRTCSession";
import { Room } from "engine/src/models/room";

type Methods = Record<string, (this: any, ...values: any[]) => any>;
const prototype = MatrixClient.prototype as any;
function add(methods: Methods): void {
    for (const [name, method] of Object.entries(methods)) prototype[name] ??= method;
}

add({
    isCryptoEnabled() { return !!this.getCrypto(); },
    async getKeyBackupVersion() { return (await this.getCrypto()?.getKeyBackupInfo()) ?? null; },
    getKeyBackupEnabled() { return true; },
    async restoreKeyBackupWithSecretStorage() {
        await this.getCrypto().loadSessionBackupPrivateKeyFromSecretStorage();
        return this.getCrypto().restoreKeyBackup();
    },
    restoreKeyBackupWithCache() { return this.getCrypto().restoreKeyBackup(); },
    getVerificationRequestsToDeviceInProgress(user) {
        return this.getCrypto()?.getVerificationRequestsToDeviceInProgress(user) ?? [];
    },
    findVerificationRequestDMInProgress(room, user) {
        return this.getCrypto()?.findVerificationRequestDMInProgress(room, user);
    },
    setGlobalErrorOnUnknownDevices() {},
    setGlobalBlacklistUnverifiedDevices(value) {
        const crypto = this.getCrypto();
        if (crypto) crypto.globalBlacklistUnverifiedDevices = value;
    },
    getGlobalBlacklistUnverifiedDevices() { return this.getCrypto()?.globalBlacklistUnverifiedDevices; },
    hasSecretStorageKey(id) { return this.secretStorage.hasKey(id); },
    getDefaultSecretStorageKeyId() { return this.secretStorage.getDefaultKeyId(); },
    async getDehydratedDevice() { return undefined; },
    async getAuthIssuer() { throw new Error("this engine knows no issuer"); },
});
for (const name of [
    "prepareToEncrypt", "forceDiscardSession", "isKeyBackupTrusted", "deleteKeyBackupVersion",
    "userHasCrossSigningKeys", "isCrossSigningReady", "bootstrapCrossSigning",
    "createRecoveryKeyFromPassphrase", "isSecretStorageReady", "bootstrapSecretStorage",
    "requestVerificationDM", "getUserVerificationStatus", "getDeviceVerificationStatus",
    "setDeviceVerified", "crossSignDevice",
]) {
    add({ [name](...values) { return this.getCrypto()?.[name](...values); } });
}

(MatrixRTCSession as any).callMembershipsForRoom ??= () => [];
const addLiveEvents = (Room.prototype as any).addLiveEvents;
(Room.prototype as any).addLiveEvents = function (events: any, options: any = { addToState: true }) {
    return addLiveEvents.call(this, events, options);
};
