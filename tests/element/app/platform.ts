// The platform that Element runs on: a tab of a browser, without updates and without a tray.
import BasePlatform from "matrix-react-sdk/src/BasePlatform";
import SdkConfig from "matrix-react-sdk/src/SdkConfig";

export class BrowserTab extends BasePlatform {
    public async getConfig(): Promise<any> {
        return SdkConfig.get();
    }
    public getDefaultDeviceDisplayName(): string {
        return "Element in a test";
    }
    public getHumanReadableName(): string {
        return "Browser tab";
    }
    public supportsNotifications(): boolean {
        return false;
    }
    public maySendNotifications(): boolean {
        return false;
    }
    public async requestNotificationPermission(): Promise<string> {
        return "denied";
    }
    public async getAppVersion(): Promise<string> {
        return "test";
    }
    public reload(): void {
        window.location.reload();
    }
}
