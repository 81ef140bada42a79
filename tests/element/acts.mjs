// What a person does in Element, by its user interface.

import { until } from "./browser.mjs";

/** The first of several things that can be pressed, by what stands on them. */
export const button = (within, ...words) =>
    within
        .locator(words.map((word) => `button:has-text("${word}"), [role=button]:has-text("${word}")`).join(", "))
        .first();

/** Signs in at the node, which knows whose it is; tells how long it took until the list of rooms. */
export async function signIn({ page, element }) {
    await page.goto(`${element}/#/login`);
    await page.waitForSelector(".mx_SSOButton");
    const begun = Date.now();
    await page.click(".mx_SSOButton");
    await page.waitForSelector(".mx_LeftPanel, .mx_CompleteSecurity_body");
    return Date.now() - begun;
}

/** Registers somebody more at a node, by a password. */
export async function register({ page, element }, name, password) {
    await page.goto(`${element}/#/register`);
    await page.fill("#mx_RegistrationForm_username", name);
    await page.fill("#mx_RegistrationForm_password", password);
    await page.fill("#mx_RegistrationForm_passwordConfirm", password);
    await page.click(".mx_Login_submit");
    // Who is new is asked what for.
    await button(page, "Skip").click();
    await page.waitForSelector(".mx_LeftPanel");
}

/** Puts away what pops up in a corner. */
export async function calm({ page }) {
    for (let n = 0; n < 6; n++) {
        const toast = page.locator(".mx_Toast_toast").first();
        const away = button(toast, "Later", "Dismiss", "No", "OK");
        if (!(await away.count())) return;
        await away.click({ timeout: 2000 }).catch(() => {});
        await page.waitForTimeout(300);
    }
}

/** Opens the settings at a tab. */
export async function settings({ page }, tab) {
    await page.locator(".mx_UserMenu_contextMenuButton").click();
    await page.locator('[role=menuitem]:has-text("All settings")').click();
    await page.waitForSelector(".mx_UserSettingsDialog");
    await page.locator(`[role=tab]:has-text("${tab}")`).first().click();
}

/** Closes the dialog that is open. */
export const close = ({ page }) => page.locator('[aria-label="Close dialog"]').first().click();

/** Takes a name. */
export async function callOneself(device, name) {
    await settings(device, "Account");
    const field = device.page.getByLabel("Display Name");
    await field.fill(name);
    await field.press("Enter");
    await until("the new name", async () => {
        const { userId } = await identity(device);
        const { body } = await device.ask(`/_matrix/client/v3/profile/${encodeURIComponent(userId)}`);
        return body.displayname === name;
    });
    await close(device);
}

/** Who a person is here. */
export const identity = ({ page }) =>
    page.evaluate(() => {
        const client = window.mxMatrixClientPeg.get();
        return { userId: client.getUserId(), deviceId: client.getDeviceId() };
    });

/** Looks for people in the dialog of new chats; the one who is found is clicked. */
export async function findInNewChat({ page }, term, userId) {
    await page.locator('.mx_RoomSublist:has-text("People") .mx_RoomSublist_auxButton').first().click();
    const chat = page.locator('[role=menuitem]:has-text("Start new chat")');
    await chat.waitFor({ timeout: 1000 }).then(() => chat.click(), () => {});
    await page.waitForSelector(".mx_InviteDialog_content");
    await page.fill(".mx_InviteDialog_editor input", term);
    const tile = page.locator(".mx_InviteDialog_tile--room, .mx_InviteDialog_tile").filter({ hasText: userId }).first();
    await tile.waitFor();
    return tile;
}

/** Begins an encrypted chat with somebody. */
export async function beginChat(device, term, userId) {
    const { page } = device;
    await (await findInNewChat(device, term, userId)).click();
    await page.locator(".mx_InviteDialog_goButton").click();
    const anyway = button(page, "Start DM anyway");
    await page.waitForSelector('.mx_BasicMessageComposer_input, :text("Start DM anyway")');
    if (await anyway.count()) await anyway.click();
    await page.waitForSelector(".mx_BasicMessageComposer_input");
}

/** Makes a private room, which is encrypted. */
export async function makeRoom({ page }, name) {
    await page.locator('.mx_RoomSublist:has-text("Rooms") .mx_RoomSublist_auxButton').first().click();
    await page.locator('[role=menuitem]:has-text("New room")').click();
    await page.fill(".mx_CreateRoomDialog_name input", name);
    await button(page.locator(".mx_CreateRoomDialog"), "Create room").click();
    await page.waitForSelector(`.mx_RoomHeader:has-text("${name}")`);
    await page.waitForSelector(".mx_BasicMessageComposer_input");
}

export async function invite({ page }, userId) {
    await say({ page }, `/invite ${userId}`);
    const anyway = button(page, "Invite anyway");
    await anyway.waitFor({ timeout: 2000 }).then(() => anyway.click(), () => {});
}

/** Goes to a room of the list. */
export async function open({ page }, name) {
    await page.locator(`.mx_RoomTile:has-text("${name}")`).first().click();
}

/** Takes the invite that is there. */
export async function accept({ page }, name) {
    await page.locator(`.mx_RoomSublist .mx_RoomTile:has-text("${name}")`).first().click();
    await button(page.locator(".mx_RoomPreviewBar"), "Start chatting", "Accept").click();
    await page.waitForSelector(".mx_BasicMessageComposer_input");
}

/** Writes a message, and sends it. */
export async function say({ page }, text, within = ".mx_RoomView_body") {
    const field = page.locator(`${within} .mx_BasicMessageComposer_input`).first();
    await field.click();
    await field.pressSequentially(text);
    await field.press("Enter");
}

/** Waits until a message is shown, decrypted. */
export const reads = ({ page }, text) => page.waitForSelector(`.mx_EventTile_line:has-text("${text}")`);

/** The message with a text. */
export const message = ({ page }, text) => page.locator(`.mx_EventTile:has-text("${text}")`).last();

/** Chooses an action of the bar over a message. */
export async function act(device, text, action) {
    const tile = message(device, text);
    await tile.hover();
    await tile.locator(`[aria-label="${action}"]`).first().click();
}

export async function react(device, text, emoji) {
    await act(device, text, "React");
    await device.page.locator(`.mx_EmojiPicker_item:has-text("${emoji}")`).first().click();
}

export async function edit(device, text, more) {
    await act(device, text, "Edit");
    const field = device.page.locator(".mx_EditMessageComposer .mx_BasicMessageComposer_input");
    await field.press("End");
    await field.pressSequentially(more);
    await field.press("Enter");
}

export async function reply(device, text, answer) {
    await act(device, text, "Reply");
    await say(device, answer);
}

export async function replyInThread(device, text, answer) {
    await act(device, text, "Reply in thread");
    await device.page.waitForSelector(".mx_ThreadView .mx_BasicMessageComposer_input");
    await say(device, answer, ".mx_ThreadView");
}

export const closePanel = ({ page }) =>
    page.locator('.mx_RightPanel [data-testid=base-card-close-button]').first().click();

export async function redact(device, text) {
    const { page } = device;
    await act(device, text, "Options");
    await page.locator('[role=menuitem]:has-text("Remove")').click();
    await button(page.locator(".mx_Dialog"), "Remove").click();
}

export async function makePoll({ page }, question, answers) {
    await page.locator('.mx_MessageComposer [aria-label="More options"]').first().click();
    await page.locator('[role=menuitem]:has-text("Poll")').click();
    await page.fill("#poll-topic-input", question);
    for (const [n, answer] of answers.entries()) await page.fill(`#pollcreate_option_${n}`, answer);
    await button(page.locator(".mx_Dialog"), "Create Poll").click();
}

/** Sends a file. */
export async function sendFile({ page }, file) {
    await page.locator("input[type=file][multiple]").last().setInputFiles(file);
    await button(page.locator(".mx_Dialog"), "Upload").click();
}

/** Waits until the newest picture is shown, and tells how wide it is. */
export async function seesPicture({ page }) {
    const picture = page.locator(".mx_MImageBody img").last();
    await picture.waitFor();
    return until("the picture", () => picture.evaluate((one) => one.complete && one.naturalWidth));
}

/** Records what the microphone of the browser hears, which beeps, and sends it. */
export async function sendVoice({ page }) {
    await page.locator('.mx_MessageComposer [aria-label="More options"]').first().click();
    await page.locator('[role=menuitem]:has-text("Voice Message")').click();
    await page.waitForSelector(".mx_VoiceMessagePrimaryContainer");
    await page.waitForTimeout(2000);
    await page.locator('.mx_MessageComposer [aria-label="Send voice message"], .mx_MessageComposer_sendMessage').first().click();
}

/** Sets up secret storage and key backup by a recovery key; returns the key. */
export async function secure(device) {
    const { page } = device;
    await settings(device, "Security & Privacy");
    await button(page.locator(".mx_UserSettingsDialog"), "Set up").click();
    const dialog = page.locator(".mx_CreateSecretStorageDialog");
    await button(dialog, "Continue").click();
    const shown = page.locator(".mx_CreateSecretStorageDialog_recoveryKey code");
    await shown.waitFor();
    const key = await shown.innerText();
    await button(page, "Copy").click();
    await button(page.locator(".mx_Dialog").last(), "Continue").click();
    await button(page, "Done").click();
    const left = page.locator('[aria-label="Close dialog"]').first();
    await left.waitFor({ timeout: 1000 }).then(() => left.click(), () => {});
    return key;
}

/** The public key by which somebody's identity is known. */
const identityKey = ({ page }) =>
    page.evaluate(() => window.mxMatrixClientPeg.get().getCrypto().getCrossSigningKeyId());

/** Makes a new identity, which the person confirms on a page of the node. */
export async function resetKeys(device) {
    const { page } = device;
    const before = await identityKey(device);
    await settings(device, "Security & Privacy");
    await button(page.locator(".mx_CrossSigningPanel_buttonRow"), "Reset").click();
    await button(page.locator(".mx_ConfirmDestroyCrossSigningDialog"), "Clear cross-signing keys").click();
    const opened = page.waitForEvent("popup");
    await button(page.locator(".mx_Dialog").last(), "Single Sign On").click();
    const approval = await opened;
    await device.picture("reset");
    await approval.getByRole("button", { name: "Confirm" }).click();
    await button(page.locator(".mx_Dialog").last(), "Confirm").click();
    await until("a new identity", async () => (await identityKey(device)) !== before);
    await close(device);
}

/** What a device thinks of somebody's identity. */
export const trust = ({ page }, userId) =>
    page.evaluate(async (of) => {
        const status = await window.mxMatrixClientPeg.get().getCrypto().getUserVerificationStatus(of);
        return { now: status.isCrossSigningVerified(), once: status.wasCrossSigningVerified() };
    }, userId);

/** Both press that the emoji are the same, when they are. */
async function compareEmoji(one, other) {
    const shown = [];
    for (const { page } of [one, other]) {
        await page.waitForSelector(".mx_VerificationShowSas_emojiSas_label");
        shown.push((await page.locator(".mx_VerificationShowSas_emojiSas_label").allInnerTexts()).join());
    }
    if (shown[0] !== shown[1]) throw new Error(`the emoji differ: ${shown.join(" and ")}`);
    for (const { page } of [one, other]) await button(page, "They match").click();
}

/** Verifies a new device by one that is there. */
export async function verifyDevice(fresh, known) {
    await button(fresh.page, "Verify with another device").click();
    await button(known.page.locator(".mx_Toast_toast"), "Verify").click();
    await button(known.page.locator(".mx_Dialog, .mx_RightPanel"), "Verify by emoji", "Start").click();
    await compareEmoji(fresh, known);
    await button(known.page.locator(".mx_Dialog, .mx_RightPanel"), "Got it", "Done").click();
    await button(fresh.page, "Done", "Got it").click();
    await fresh.page.waitForSelector(".mx_LeftPanel");
}

/** Verifies somebody with whom one is in a chat. */
export async function verifyPerson(one, other, name) {
    const { page } = one;
    await page.locator(".mx_RoomHeader .mx_RoomHeader_infoWrapper, .mx_RoomHeader_info").first().click();
    await page.locator('.mx_RightPanel [role=menuitem]:has-text("People")').click();
    await page.locator(`.mx_MemberList .mx_EntityTile:has-text("${name}")`).first().click();
    await button(page.locator(".mx_UserInfo"), "Verify").click();
    await button(page.locator(".mx_RightPanel"), "Start Verification", "Start verification").click();
    await button(other.page, "Verify User", "Accept", "Verify").click();
    await button(page.locator(".mx_RightPanel"), "Verify by emoji", "Start").click();
    await compareEmoji(one, other);
    for (const device of [one, other]) {
        await button(device.page.locator(".mx_RightPanel, .mx_Dialog"), "Got it", "Done").click();
    }
}

export async function leave({ page }, name) {
    const tile = page.locator(`.mx_RoomTile:has-text("${name}")`).first();
    await tile.click({ button: "right" });
    await page.locator('[role=menuitem][aria-label="Leave"]').click();
    await button(page.locator(".mx_Dialog"), "Leave").click();
    await tile.waitFor({ state: "detached" });
}

export async function signOut({ page }) {
    await page.locator(".mx_UserMenu_contextMenuButton").click();
    await page.locator('[role=menuitem]:has-text("Sign out")').click();
    const sure = button(page.locator(".mx_Dialog"), "Sign out", "I don't want");
    await sure.waitFor({ timeout: 3000 }).then(() => sure.click(), () => {});
    await page.waitForSelector(".mx_SSOButton, .mx_Welcome");
}
